//! A catalogue file is read or refused with words; what is accepted survives being stored.
#![no_main]
use libfuzzer_sys::fuzz_target;
use model::catalogue::{CatalogueFile, PlanTerms};

fuzz_target!(|text: &str| {
    let Ok(file) = toml::from_str::<CatalogueFile>(text) else { return };
    match file.check() {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(plans) => {
            for plan in plans {
                let stored = serde_json::to_vec(&plan).expect("terms are JSON");
                let again: PlanTerms = serde_json::from_slice(&stored).expect("terms come back");
                assert_eq!(serde_json::to_vec(&again).ok(), Some(stored));
            }
        }
    }
});
