//! A button that copies text. Without JavaScript it is not there, and the text can be selected.

#![expect(
    missing_docs,
    reason = "the island macro makes a struct of its own and takes no docs for it"
)]

use leptos::prelude::*;

/// Copies `text` and says so to eyes and screen readers. `label` is the verb phrase on the button, `kind` is `primary`
/// for the page's main action and else empty.
#[island]
pub fn CopyButton(
    /// What is copied.
    text: String,
    /// What the button says.
    label: String,
    /// How it looks.
    kind: String,
) -> impl IntoView {
    let said = RwSignal::new("");
    let on_click = move |_| {
        #[cfg(feature = "hydrate")]
        {
            let text = text.clone();
            leptos::task::spawn_local(async move {
                said.set(if copy(&text).await {
                    "Copied"
                } else {
                    "Your browser does not let this page copy: mark the text and copy it."
                });
            });
        }
        #[cfg(not(feature = "hydrate"))]
        {
            let _ = (&text, &said);
        }
    };
    view! {
        <span class="copy needs-script">
            <button type="button" class="button" data-kind=kind on:click=on_click>{label}</button>
            <span role="status" class="copied">{move || said.get()}</span>
        </span>
    }
}

/// Browsers keep the clipboard from pages that came without TLS, but for those of this machine.
#[cfg(feature = "hydrate")]
async fn copy(text: &str) -> bool {
    let Some(window) = web_sys::window().filter(web_sys::Window::is_secure_context) else {
        return false;
    };
    let written = window.navigator().clipboard().write_text(text);
    wasm_bindgen_futures::JsFuture::from(written).await.is_ok()
}
