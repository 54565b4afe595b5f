//! A button that copies text. Without JavaScript it is not there, and the text can be selected.

#![expect(
    missing_docs,
    reason = "the island macro makes a struct of its own and takes no docs for it"
)]

use leptos::prelude::*;

/// Copies `text` and says so to eyes and screen readers. `label` is the verb phrase on the button.
#[island]
pub fn CopyButton(
    /// What is copied.
    text: String,
    /// What the button says.
    label: String,
) -> impl IntoView {
    let copied = RwSignal::new(false);
    let on_click = move |_| {
        #[cfg(feature = "hydrate")]
        {
            if let Some(window) = web_sys::window() {
                let _promise = window.navigator().clipboard().write_text(&text);
                copied.set(true);
            }
        }
        #[cfg(not(feature = "hydrate"))]
        {
            let _ = &text;
        }
    };
    view! {
        <button type="button" class="button needs-script" on:click=on_click>{label}</button>
        <span role="status" class="copied">{move || if copied.get() { "Copied" } else { "" }}</span>
    }
}
