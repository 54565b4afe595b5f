//! The browser entry. `public/boot.js` calls [`hydrate`] once and then each island by its name.

use app as _;

/// Prepares the reactive runtime; the islands' own functions, exported by `app`, do the rest.
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn hydrate() {
    app::start();
}
