//! Form-encoded text with nested brackets, `items[0][price]=x`, as a tree.

/// A form value: text, or named values in the order in which they came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Leaf(String),
    Branch(Vec<(String, Node)>),
}

impl Node {
    /// The value under a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Leaf(_) => None,
            Self::Branch(children) => children.iter().find(|(key, _)| key == name).map(|(_, child)| child),
        }
    }

    /// The text under a name, or nothing.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Self::Leaf(text)) => text,
            _ => "",
        }
    }

    fn insert(&mut self, path: &[String], value: String) -> Result<(), ()> {
        let Self::Branch(children) = self else { return Err(()) };
        let Some((head, rest)) = path.split_first() else {
            return Err(());
        };
        let key = if head.is_empty() {
            children.len().to_string()
        } else {
            head.clone()
        };
        let at = match children.iter().position(|(name, _)| *name == key) {
            Some(at) => at,
            None => {
                children.push((key, Self::Branch(Vec::new())));
                children.len() - 1
            }
        };
        let Some((_, child)) = children.get_mut(at) else {
            return Err(());
        };
        if rest.is_empty() {
            *child = Self::Leaf(value);
            return Ok(());
        }
        child.insert(rest, value)
    }
}

/// Reads a form. The error names the key that contradicts another one.
pub(crate) fn parse(text: &str) -> Result<Node, String> {
    let mut root = Node::Branch(Vec::new());
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name);
        root.insert(&segments(&name), decode(value))
            .map_err(|()| name.clone())?;
    }
    Ok(root)
}

/// `a[b][]` as `a`, `b` and an empty name.
fn segments(name: &str) -> Vec<String> {
    match name.split_once('[') {
        None => vec![name.to_owned()],
        Some((head, rest)) => {
            let mut all = vec![head.to_owned()];
            all.extend(rest.trim_end_matches(']').split("][").map(str::to_owned));
            all
        }
    }
}

/// Percent-decodes; `+` is a space. Bytes that are no UTF-8 become the replacement character.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_names_make_a_tree() {
        let tree = parse("items[0][price]=p%5F1&items[0][quantity]=2&expand[]=a&expand[]=b+c").unwrap();
        let item = tree.get("items").and_then(|items| items.get("0")).unwrap();
        assert_eq!((item.text("price"), item.text("quantity")), ("p_1", "2"));
        assert_eq!(tree.get("expand").unwrap().text("1"), "b c");
    }

    #[test]
    fn a_text_and_an_object_of_one_name_contradict() {
        assert_eq!(parse("a=1&a[b]=2"), Err("a[b]".to_owned()));
    }
}
