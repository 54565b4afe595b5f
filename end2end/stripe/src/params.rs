//! The table of requests and their parameters (`params.txt`), and the check of a request against it.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::form::Node;

/// Stripe's own limit for a text that names none, in characters.
const TEXT_LIMIT: usize = 5000;

#[derive(Debug, Clone)]
struct Kind {
    shape: Shape,
    clearable: bool,
}

#[derive(Debug, Clone)]
enum Shape {
    Text(usize),
    Integer,
    Boolean,
    Decimal,
    OneOf { words: Vec<String>, or_integer: bool },
    Map,
    Object { fields: Vec<Field>, or_integer: bool },
    List(Box<Kind>),
}

#[derive(Debug, Clone)]
struct Field {
    name: String,
    required: bool,
    kind: Kind,
}

/// One request: its method, path pattern and parameters.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Method and pattern, as `POST /v1/customers/{id}`.
    pub(crate) name: String,
    fields: Vec<Field>,
}

static TABLE: LazyLock<Vec<Endpoint>> = LazyLock::new(|| read_table(include_str!("params.txt")));

/// The endpoint for a method and path, with the id in the path. Exact paths win over patterns.
pub(crate) fn find(method: &str, path: &str) -> Option<(&'static Endpoint, String)> {
    let wanted = format!("{method} {path}");
    if let Some(endpoint) = TABLE.iter().find(|endpoint| endpoint.name == wanted) {
        return Some((endpoint, String::new()));
    }
    TABLE.iter().find_map(|endpoint| {
        let (head, tail) = endpoint.name.split_once("{id}")?;
        let id = wanted.strip_prefix(head)?.strip_suffix(tail)?;
        (!id.is_empty() && !id.contains('/')).then(|| (endpoint, crate::form::decode(id)))
    })
}

impl Endpoint {
    /// The parameters with their types, or Stripe's refusal.
    pub(crate) fn check(&self, form: &Node) -> Result<Value, ApiError> {
        check_fields(form, &self.fields, "")
    }
}

fn check_fields(form: &Node, fields: &[Field], path: &str) -> Result<Value, ApiError> {
    let Node::Branch(children) = form else {
        return Err(ApiError::param(path, "Invalid object"));
    };
    let mut out = Map::new();
    for (name, child) in children {
        let full = join(path, name);
        if path.is_empty() && name == "expand" {
            let texts = Kind {
                shape: Shape::Text(TEXT_LIMIT),
                clearable: false,
            };
            out.insert(name.clone(), check_list(child, &texts, &full)?);
            continue;
        }
        let field = fields.iter().find(|field| field.name == *name).ok_or_else(|| {
            ApiError::coded(
                "parameter_unknown",
                &full,
                &format!("Received unknown parameter: {full}"),
            )
        })?;
        if field.required && *child == Node::Leaf(String::new()) {
            let message = format!("You passed an empty string for '{full}'.");
            return Err(ApiError::coded("parameter_invalid_empty", &full, &message));
        }
        out.insert(name.clone(), check(child, &field.kind, &full)?);
    }
    if let Some(field) = fields
        .iter()
        .find(|field| field.required && !out.contains_key(&field.name))
    {
        let full = join(path, &field.name);
        return Err(ApiError::coded(
            "parameter_missing",
            &full,
            &format!("Missing required param: {full}."),
        ));
    }
    Ok(Value::Object(out))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}[{name}]")
    }
}

fn check(node: &Node, kind: &Kind, path: &str) -> Result<Value, ApiError> {
    match (node, &kind.shape) {
        (Node::Leaf(text), _) if text.is_empty() && kind.clearable => Ok(Value::Null),
        (Node::Leaf(text), Shape::Object { or_integer: true, .. }) => integer(text, path),
        (Node::Leaf(text), shape) => check_text(text, shape, path),
        (Node::Branch(_), Shape::Object { fields, .. }) => check_fields(node, fields, path),
        (Node::Branch(_), Shape::List(item)) => check_list(node, item, path),
        (Node::Branch(children), Shape::Map) => check_map(children, path),
        (Node::Branch(_), _) => Err(ApiError::param(
            path,
            &format!("Invalid {path}: expected a plain value"),
        )),
    }
}

fn check_text(text: &str, shape: &Shape, path: &str) -> Result<Value, ApiError> {
    let bad = |code: &str, what: &str| ApiError::coded(code, path, &format!("Invalid {what}: {text}"));
    match shape {
        Shape::Text(limit) if text.chars().count() > *limit => {
            let message = format!("Invalid string: {path} must be at most {limit} characters");
            Err(ApiError::coded("parameter_invalid_string_too_long", path, &message))
        }
        Shape::Text(_) => Ok(Value::from(text)),
        Shape::Integer => integer(text, path),
        Shape::Boolean => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(ApiError::param(path, &format!("Invalid boolean: {text}"))),
        },
        Shape::Decimal => match crate::money::parse(text) {
            Some(_) => Ok(Value::from(text)),
            None => Err(ApiError::param(path, &format!("Invalid decimal: {text}"))),
        },
        Shape::OneOf { words, or_integer } => {
            if words.iter().any(|word| word == text) {
                return Ok(Value::from(text));
            }
            if *or_integer {
                return integer(text, path);
            }
            let message = format!("Invalid {path}: must be one of {}", words.join(", "));
            Err(ApiError::param(path, &message))
        }
        Shape::Map | Shape::Object { .. } => Err(bad("parameter_invalid_string_empty", "object")),
        Shape::List(_) => Err(ApiError::param(path, "Invalid array")),
    }
}

fn integer(text: &str, path: &str) -> Result<Value, ApiError> {
    text.parse::<i64>()
        .map(Value::from)
        .map_err(|_| ApiError::coded("parameter_invalid_integer", path, &format!("Invalid integer: {text}")))
}

fn check_list(node: &Node, item: &Kind, path: &str) -> Result<Value, ApiError> {
    let Node::Branch(children) = node else {
        return Err(ApiError::param(path, "Invalid array"));
    };
    let mut found = Vec::with_capacity(children.len());
    for (index, child) in children {
        let order = index
            .parse::<usize>()
            .map_err(|_| ApiError::param(path, "Invalid array"))?;
        found.push((order, check(child, item, &join(path, index))?));
    }
    found.sort_by_key(|(order, _)| *order);
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

fn check_map(children: &[(String, Node)], path: &str) -> Result<Value, ApiError> {
    let mut out = Map::new();
    for (name, child) in children {
        let Node::Leaf(text) = child else {
            return Err(ApiError::param(&join(path, name), "Invalid string"));
        };
        out.insert(name.clone(), Value::from(text.as_str()));
    }
    if path == "metadata" || path.ends_with("[metadata]") {
        check_metadata(&out, path)?;
    }
    Ok(Value::Object(out))
}

/// Stripe's limits for metadata: 50 keys, keys of 40 characters, values of 500.
fn check_metadata(map: &Map<String, Value>, path: &str) -> Result<(), ApiError> {
    if map.len() > 50 {
        return Err(ApiError::param(path, "Metadata can have at most 50 keys"));
    }
    for (key, value) in map {
        if key.chars().count() > 40 || value.as_str().unwrap_or_default().chars().count() > 500 {
            let message = format!("Metadata keys take at most 40 characters and values at most 500: {key}");
            return Err(ApiError::param(&join(path, key), &message));
        }
    }
    Ok(())
}

fn read_table(text: &str) -> Vec<Endpoint> {
    let mut named = HashMap::new();
    let mut table = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some((name, kind)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
            let kind = Reader {
                rest: kind,
                named: &named,
            }
            .kind();
            named.insert(name.to_owned(), kind);
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let name = format!(
            "{} {}",
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default()
        );
        let fields = Reader {
            rest: words.next().unwrap_or_default(),
            named: &named,
        }
        .fields();
        table.push(Endpoint { name, fields });
    }
    table
}

/// Reads the type notation of `params.txt`.
struct Reader<'a> {
    rest: &'a str,
    named: &'a HashMap<String, Kind>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, sign: &str) -> bool {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn fields(&mut self) -> Vec<Field> {
        let mut fields = Vec::new();
        loop {
            while self.take(" ") {}
            let name = self.word();
            if name.is_empty() {
                return fields;
            }
            let required = self.take("!");
            let kind = self.kind();
            fields.push(Field {
                name: name.to_owned(),
                required,
                kind,
            });
        }
    }

    fn kind(&mut self) -> Kind {
        if self.take("@") {
            let name = self.word();
            let mut kind = self.named.get(name).cloned().unwrap_or(Kind {
                shape: Shape::Map,
                clearable: false,
            });
            kind.clearable |= self.take("?");
            return kind;
        }
        let shape = self.shape();
        Kind {
            shape,
            clearable: self.take("?"),
        }
    }

    fn shape(&mut self) -> Shape {
        if self.take("*") {
            return Shape::Map;
        }
        if self.take("[]") {
            return Shape::List(Box::new(self.kind()));
        }
        if self.take("(") {
            let (words, rest) = self.rest.split_once(')').unwrap_or((self.rest, ""));
            self.rest = rest;
            let or_integer = words.split('|').any(|word| word == "#");
            return Shape::OneOf {
                words: words.split('|').filter(|w| *w != "#").map(str::to_owned).collect(),
                or_integer,
            };
        }
        if self.take("{") {
            let fields = self.fields();
            self.take("}");
            return Shape::Object {
                fields,
                or_integer: self.take("#"),
            };
        }
        if !self.take(":") {
            return Shape::Text(TEXT_LIMIT);
        }
        let word = self.word();
        match word.split_at_checked(1) {
            Some(("i", _)) => Shape::Integer,
            Some(("b", _)) => Shape::Boolean,
            Some(("d", _)) => Shape::Decimal,
            Some((_, limit)) => Shape::Text(limit.parse().unwrap_or(TEXT_LIMIT)),
            None => Shape::Text(TEXT_LIMIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, form: &str) -> (String, String) {
        let error = find("POST", path)
            .unwrap()
            .0
            .check(&crate::form::parse(form).unwrap())
            .unwrap_err()
            .error;
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (text("code"), text("param"))
    }

    #[test]
    fn the_table_refuses_what_stripe_refuses() {
        let unknown = refused("/v1/customers", "nmae=Ada");
        assert_eq!(unknown, ("parameter_unknown".into(), "nmae".into()));
        let nested = refused(
            "/v1/prices",
            "currency=usd&recurring[interval]=month&recurring[every]=1",
        );
        assert_eq!(nested, ("parameter_unknown".into(), "recurring[every]".into()));
        assert_eq!(
            refused("/v1/prices", "product=p"),
            ("parameter_missing".into(), "currency".into())
        );
        assert_eq!(
            refused("/v1/prices", "currency=usd&unit_amount=1.5").0,
            "parameter_invalid_integer"
        );
        let session = refused("/v1/checkout/sessions", "payment_method_types[0]=card");
        assert_eq!(session.0, "parameter_unknown");
    }
}
