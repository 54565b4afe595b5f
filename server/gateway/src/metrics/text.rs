//! Prometheus' text format, version 0.0.4.

use std::fmt::{self, Display, Write};

/// Every name begins so.
const PREFIX: &str = "turnpike_gateway_";

/// A label's name and value.
pub(crate) type Label<'a> = (&'static str, &'a dyn Display);

/// An exposition that grows.
#[derive(Debug, Default)]
pub(crate) struct Text {
    out: String,
    family: &'static str,
}

// Writing to a string cannot fail, so the results below are not looked at.
impl Text {
    /// Begins the samples of one name, without the prefix. `kind` is `counter`, `gauge` or `histogram`.
    pub(crate) fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Self {
        self.family = name;
        let _ = write!(self.out, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n");
        self
    }

    /// A sample of the name begun last.
    pub(crate) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.suffixed("", labels, value);
    }

    /// A sample whose name goes on, as those of histograms do.
    pub(crate) fn suffixed(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        let _ = write!(self.out, "{PREFIX}{}{suffix}", self.family);
        for (i, (name, said)) in labels.iter().enumerate() {
            let _ = write!(self.out, "{}{name}=\"", if i == 0 { '{' } else { ',' });
            let _ = write!(Escaped(&mut self.out), "{said}");
            self.out.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
    }

    /// All of it.
    pub(crate) fn finish(self) -> String {
        self.out
    }
}

/// Writes a label's value: a backslash, a quote and a line's end are escaped.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Microseconds, shown as seconds.
pub(crate) struct Seconds(pub(crate) u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = Text::default();
        text.family("a_total", "counter", "What it is.")
            .sample(&[("plan", &"a\\b\"c\nd"), ("n", &7)], 3);
        let wanted = "# HELP turnpike_gateway_a_total What it is.\n# TYPE turnpike_gateway_a_total counter\n\
                      turnpike_gateway_a_total{plan=\"a\\\\b\\\"c\\nd\",n=\"7\"} 3\n";
        assert_eq!(text.finish(), wanted);
    }
}
