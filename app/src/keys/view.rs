//! What several pages of keys show.

use crate::ui::copy::CopyButton;
use crate::ui::{Tone, badge, card, page_head};
use domain::keys::{CreatedKey, KeyRoute};
use leptos::prelude::*;
use model::access::Method;

/// A first call, ready to paste: the first GET route without a variable part that the key may use.
pub(crate) fn curl_line(gateway: &str, routes: &[KeyRoute], allowed: Option<&[String]>, key: &str) -> String {
    let usable =
        |r: &&KeyRoute| r.methods.contains(&Method::Get) && allowed.is_none_or(|slugs| slugs.contains(&r.slug));
    let plain = routes.iter().filter(usable).find(|r| !r.path.contains('{'));
    let path = plain.or_else(|| routes.iter().find(usable)).map_or("/", |r| &r.path);
    // A variable part is left without its braces: it names what belongs there.
    let path = path.replace(['{', '}', '*'], "");
    format!("curl {gateway}{path} \\\n  -H \"X-API-Key: {key}\"")
}

/// The one page that shows a key.
pub(super) fn reveal(created: &CreatedKey, curl: String, note: String) -> impl IntoView + use<> {
    let key = created.plain.reveal().to_owned();
    let warn = badge(Tone::Warn, "you will not see it again");
    let body = view! {
        <div class="stack">
            <p>{note}</p>
            <div class="reveal">
                <pre class="code" tabindex="0" role="group" aria-label="The key"><code id="new-key">{key.clone()}</code></pre>
                <CopyButton text=key.clone() label="Copy key".to_owned() kind="primary".to_owned() />
            </div>
            <p><small>"A first call, ready to paste:"</small></p>
            <pre class="code" tabindex="0" role="group" aria-label="A first call"><code>{curl.clone()}</code></pre>
            <div class="actions">
                <CopyButton text=curl label="Copy call".to_owned() kind=String::new() />
                <a class="button" href="/keys">"I have stored it"</a>
            </div>
        </div>
    };
    view! {
        {page_head(created.name.clone(), "Store the key now. Only a fingerprint of it is kept here.", ())}
        {card("Your new key", warn, body)}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(slug: &str, path: &str, method: Method) -> KeyRoute {
        KeyRoute {
            slug: slug.to_owned(),
            path: path.to_owned(),
            methods: vec![method],
        }
    }

    #[test]
    fn the_first_call_is_one_the_key_may_make() {
        let routes = [
            route("batch", "/v1/batch", Method::Post),
            route("country", "/v1/countries/{code}", Method::Get),
            route("countries", "/v1/countries", Method::Get),
        ];
        let line = |allowed: Option<&[String]>| curl_line("http://gw", &routes, allowed, "k");
        assert!(line(None).starts_with("curl http://gw/v1/countries \\"));
        assert!(line(Some(&["country".to_owned()])).starts_with("curl http://gw/v1/countries/code \\"));
        assert!(line(None).ends_with("-H \"X-API-Key: k\""));
    }
}
