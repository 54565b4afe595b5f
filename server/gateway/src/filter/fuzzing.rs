//! Documents filtered from bytes alone, for the fuzz targets.

use super::{Filter, Form, Malformed, Paths};
use model::policy::FieldPath;
use std::sync::Arc;

/// What is left of a document without what the paths name.
pub(crate) fn without<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    paths: &[FieldPath],
    lines: bool,
) -> Result<Vec<u8>, Malformed> {
    let form = if lines { Form::Lines } else { Form::Document };
    let paths = Paths::new(paths.iter().map(|p| (0, p)), str::to_owned);
    let (mut filter, mut out) = (Filter::new(Arc::new(paths), 1, form), Vec::new());
    for piece in pieces {
        filter.push(piece, &mut out)?;
    }
    filter.end()?;
    Ok(out)
}
