//! What every handler can reach.

use domain::Domain;
use std::sync::Arc;

/// State of the portal. Cheap to clone.
#[derive(Clone)]
pub struct Site {
    /// The rules.
    pub domain: Domain,
    /// The provider's name, shown at the top of every page.
    pub brand: Arc<str>,
    /// Where the browser finds style and islands.
    pub assets: Arc<Assets>,
}

/// Paths of the built files, with their content's hash in the name.
#[derive(Clone, Debug, Default)]
pub struct Assets {
    /// The stylesheet.
    pub css: String,
    /// The wasm's loader made by wasm-bindgen; empty when the site was built without islands.
    pub js: String,
    /// The wasm.
    pub wasm: String,
    /// The script that starts the islands.
    pub boot: String,
}
