//! Forms: labels, hints, errors at their field, values kept after a refusal.

use domain::DomainError;
use leptos::prelude::*;
use std::collections::HashMap;

/// What a form shows: the values typed, and what is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct FormState {
    values: HashMap<&'static str, String>,
    error: Option<(Option<&'static str>, String)>,
}

impl FormState {
    /// A form as first seen.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Keeps a value that was typed, or sets one to begin with. Never a password.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.values.insert(name, value.into());
        self
    }

    /// After a refusal: what can be mended in the form is shown in it, everything else is an error page.
    ///
    /// # Errors
    /// Gives back what no change of the form can mend.
    pub fn refused(mut self, error: DomainError) -> Result<Self, DomainError> {
        self.error = Some(match error {
            DomainError::Invalid { field, problem } => (Some(field), problem),
            DomainError::Conflict(text) => (None, text),
            DomainError::TooMany { retry_after_s } => {
                (None, format!("Too many tries. Try again in {retry_after_s} seconds."))
            }
            other => return Err(other),
        });
        Ok(self)
    }

    /// The value of a field.
    pub fn value(&self, name: &str) -> String {
        self.values.get(name).cloned().unwrap_or_default()
    }

    fn problem(&self, name: &str) -> Option<String> {
        self.error
            .as_ref()
            .filter(|(field, _)| *field == Some(name))
            .map(|(_, problem)| problem.clone())
    }

    /// The box above the fields that says what to mend, with a link to the field. Nothing when all is well. The
    /// browser's focus goes to the field, or here when it is about the form as a whole.
    pub fn summary(&self) -> AnyView {
        self.error
            .clone()
            .map(|(field, problem)| match field {
                Some(field) => view! {
                    <div class="banner" data-state="bad" role="alert"><p><a href=format!("#{field}")>{problem}</a></p></div>
                }
                .into_any(),
                None => view! {
                    <div class="banner" data-state="bad" role="alert" tabindex="-1" autofocus=true><p>{problem}</p></div>
                }
                .into_any(),
            })
            .into_any()
    }
}

/// A labelled input. `kind` is its type; `autocomplete` the browser's word for what goes in it (`off` where nothing
/// fits); `hint` stands under the label and may be empty.
pub fn field(
    state: &FormState,
    name: &'static str,
    label: &str,
    kind: &'static str,
    autocomplete: &'static str,
    hint: &str,
) -> AnyView {
    let problem = state.problem(name);
    let (hint_id, error_id) = (format!("{name}-hint"), format!("{name}-error"));
    let described = match (hint.is_empty(), problem.is_some()) {
        (true, false) => None,
        (false, false) => Some(hint_id.clone()),
        (true, true) => Some(error_id.clone()),
        (false, true) => Some(format!("{error_id} {hint_id}")),
    };
    let value = (kind != "password").then(|| state.value(name));
    let hint = (!hint.is_empty()).then(|| view! { <span class="hint" id=hint_id>{hint.to_owned()}</span> });
    view! {
        <div class="field">
            <label for=name>{label.to_owned()}</label>
            {hint}
            <input id=name name=name type=kind value=value autocomplete=autocomplete aria-describedby=described
                aria-invalid=problem.is_some().then_some("true") autofocus=problem.is_some() />
            {problem.map(|p| view! { <span class="error" id=error_id>{p}</span> })}
        </div>
    }
    .into_any()
}

/// A labelled choice of one. `options` are value and text.
pub fn select(state: &FormState, name: &'static str, label: &str, options: &[(String, String)], hint: &str) -> AnyView {
    let (chosen, problem) = (state.value(name), state.problem(name));
    let (hint_id, error_id) = (format!("{name}-hint"), format!("{name}-error"));
    let described = if problem.is_some() {
        Some(error_id.clone())
    } else {
        (!hint.is_empty()).then(|| hint_id.clone())
    };
    let options: Vec<_> = options
        .iter()
        .map(|(value, text)| view! { <option value=value.clone() selected={*value == chosen}>{text.clone()}</option> })
        .collect();
    let hint = (!hint.is_empty()).then(|| view! { <span class="hint" id=hint_id>{hint.to_owned()}</span> });
    view! {
        <div class="field">
            <label for=name>{label.to_owned()}</label>
            {hint}
            <select id=name name=name aria-describedby=described aria-invalid=problem.is_some().then_some("true")
                autofocus=problem.is_some()>{options}</select>
            {problem.map(|p| view! { <span class="error" id=error_id>{p}</span> })}
        </div>
    }
    .into_any()
}

/// A value that travels with the form.
pub fn hidden(name: &'static str, value: impl Into<String>) -> AnyView {
    view! { <input type="hidden" name=name value=value.into() /> }.into_any()
}

/// The button that sends the form; `kind` is `primary`, `danger` or empty.
pub fn submit(label: &str, kind: &'static str) -> AnyView {
    view! { <button class="button" data-kind=(!kind.is_empty()).then_some(kind)>{label.to_owned()}</button> }.into_any()
}
