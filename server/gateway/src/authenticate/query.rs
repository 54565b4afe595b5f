//! A key in the query: taken out before anything else sees it, the rest left byte for byte.

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

/// Takes a parameter out of the address; its values, decoded. Every spelling of the name counts (`api%5Fkey`), because
/// whoever reads the query decodes it too.
pub(super) fn take(uri: &mut Uri, name: &str) -> Vec<Vec<u8>> {
    let Some(query) = uri.query() else { return Vec::new() };
    let (mut rest, mut values) = (Vec::new(), Vec::new());
    for parameter in query.split('&') {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if is_named(key, name) {
            values.push(percent_decode_str(value).collect());
        } else {
            rest.push(parameter);
        }
    }
    if values.is_empty() {
        return values;
    }
    let target = if rest.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), rest.join("&"))
    };
    let mut parts = std::mem::take(uri).into_parts();
    // Made of pieces of an address that was good, so it is good.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
    values
}

fn is_named(given: &str, name: &str) -> bool {
    given == name || (given.contains('%') && percent_decode_str(given).eq(name.bytes()))
}

/// The values of all parameters, decoded.
pub(super) fn values(uri: &Uri) -> impl Iterator<Item = Vec<u8>> + '_ {
    let parameters = uri.query().unwrap_or_default().split('&');
    let values = parameters.filter_map(|p| Some(p.split_once('=')?.1));
    values.map(|v| percent_decode_str(v).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_parameter_goes_and_the_rest_stays() {
        for (before, after, values) in [
            ("/p?api_key=K", "/p", &["K"][..]),
            ("/p?a=1&api_key=K&b=%20", "/p?a=1&b=%20", &["K"]),
            ("/p?api_key=K&", "/p?", &["K"]),
            ("/p?&&api_key=K&a", "/p?&&a", &["K"]),
            ("/p?api%5Fkey=K%41&%61pi_key=L", "/p", &["KA", "L"]),
            ("/p?api_key", "/p", &[""]),
            ("/p?API_KEY=K&xapi_key=K", "/p?API_KEY=K&xapi_key=K", &[]),
            ("/p", "/p", &[]),
            ("http://h:1/p?api_key=K&a=b", "http://h:1/p?a=b", &["K"]),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            let got: Vec<String> = take(&mut uri, "api_key")
                .into_iter()
                .map(|v| String::from_utf8(v).unwrap())
                .collect();
            assert_eq!(
                (uri.to_string().as_str(), got.as_slice()),
                (after, &values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()[..])
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_left_has_no_such_parameter_and_nothing_else_changes(
            parameters in proptest::collection::vec("(api_key|api%5fkey|a|b%20)(=[a-z%{}|]{0,4})?", 0..6),
        ) {
            let mut uri: Uri = format!("/p?{}", parameters.join("&")).parse().unwrap();
            let ours = |p: &&String| p.starts_with("api_key") || p.starts_with("api%5fkey");
            let kept: Vec<&str> = parameters.iter().filter(|p| !ours(p)).map(String::as_str).collect();
            let count = take(&mut uri, "api_key").len();
            prop_assert_eq!(count, parameters.iter().filter(ours).count());
            if count > 0 {
                prop_assert_eq!(uri.query().unwrap_or_default(), kept.join("&"));
            }
            prop_assert!(take(&mut uri, "api_key").is_empty());
        }
    }
}
