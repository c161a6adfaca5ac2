//! `query-qmp-schema`: what commands take and which events there are, in QEMU's introspection
//! format, made from the command table.
//!
//! What commands return and events carry is of type `any`: the table does not know more of it, and
//! `any` promises nothing.

use serde_json::{Value, json};

use super::{NEGOTIATE, NEGOTIATION, commands};
use crate::monitor::args::{Kind, Param};
use crate::monitor::event::Event;

const ANY: &str = "any";
const ARRAY_OF_ANY: &str = "[any]";
const EMPTY: &str = "q_empty";
const STR_OR_NULL: &str = "StrOrNull";

/// The whole schema.
pub fn schema() -> Value {
    let mut entries = builtins();
    let negotiation = (NEGOTIATE, NEGOTIATION, false);
    let faces = commands().filter_map(|it| it.qmp).map(|face| (face.name, face.params, face.out_of_band));
    for (name, params, out_of_band) in faces.chain([negotiation]) {
        let members: Vec<Value> = params.iter().filter_map(member).collect();
        let arguments = match members.is_empty() {
            true => EMPTY.to_owned(),
            false => format!("q_obj_{name}-arg"),
        };
        if !members.is_empty() {
            entries.push(json!({"name": arguments, "meta-type": "object", "members": members}));
        }
        let mut command = json!({"name": name, "meta-type": "command", "arg-type": arguments, "ret-type": ANY});
        if out_of_band {
            command["allow-oob"] = true.into();
        }
        entries.push(command);
    }
    entries.extend(Event::NAMES.map(|name| json!({"name": name, "meta-type": "event", "arg-type": ANY})));
    entries.into()
}

fn builtins() -> Vec<Value> {
    let builtin = |name: &str, json_type: &str| json!({"name": name, "meta-type": "builtin", "json-type": json_type});
    vec![
        builtin("str", "string"),
        builtin("int", "int"),
        builtin("bool", "boolean"),
        builtin(ANY, "value"),
        json!({"name": ARRAY_OF_ANY, "meta-type": "array", "element-type": ANY}),
        builtin("null", "null"),
        json!({"name": STR_OR_NULL, "meta-type": "alternate", "members": [{"type": "str"}, {"type": "null"}]}),
        json!({"name": EMPTY, "meta-type": "object", "members": []}),
    ]
}

/// One argument; `None` for one that is refused. What may be left out has a `default`, which stands
/// for none here.
fn member(param: &Param) -> Option<Value> {
    let kind = match param.kind {
        Kind::Text | Kind::Line => "str",
        Kind::TextOrNull | Kind::Nothing => STR_OR_NULL,
        Kind::Bool | Kind::Switch(_) => "bool",
        Kind::Integer | Kind::Size => "int",
        Kind::Array => ARRAY_OF_ANY,
        Kind::Unsupported => return None,
    };
    Some(match param.optional {
        true => json!({"name": param.name, "type": kind, "default": null}),
        false => json!({"name": param.name, "type": kind}),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The entries by name; each name once.
    fn entries() -> BTreeMap<String, Value> {
        let Value::Array(entries) = schema() else { panic!("not an array") };
        let count = entries.len();
        let named: BTreeMap<_, _> =
            entries.into_iter().map(|it| (it["name"].as_str().unwrap().to_owned(), it)).collect();
        assert_eq!(named.len(), count);
        named
    }

    #[test]
    fn every_type_that_is_used_is_there() {
        let entries = entries();
        let members = entries.values().flat_map(|it| it["members"].as_array().into_iter().flatten().cloned());
        let used: BTreeSet<String> = entries
            .values()
            .cloned()
            .chain(members)
            .flat_map(|it| ["arg-type", "ret-type", "element-type", "type"].map(|key| it[key].clone()))
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect();
        assert!(used.len() > 10);
        for name in used {
            assert!(entries.contains_key(&name), "{name}");
        }
    }

    #[test]
    fn a_commands_arguments_are_told() {
        let entries = entries();
        assert_eq!(
            entries["migrate-recover"],
            json!({"name": "migrate-recover", "meta-type": "command", "arg-type": "q_obj_migrate-recover-arg",
                "ret-type": "any", "allow-oob": true})
        );
        assert_eq!(
            entries["q_obj_migrate-arg"]["members"],
            json!([{"name": "uri", "type": "str", "default": null}, {"name": "channels", "type": ARRAY_OF_ANY, "default": null},
                {"name": "resume", "type": "bool", "default": null},
                {"name": "detach", "type": "bool", "default": null}])
        );
        assert_eq!(entries["stop"]["arg-type"], "q_empty");
        assert_eq!(entries["qmp_capabilities"]["arg-type"], "q_obj_qmp_capabilities-arg");
        assert_eq!(entries["MIGRATION"]["meta-type"], "event");
    }
}
