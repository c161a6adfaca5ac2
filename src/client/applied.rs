//! [`Applied`]: what was set in a virtual machine for one migration, and putting it back.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::connection::{Connection, QmpError};
use super::outcome::Kept;
use super::plan::Settings;
use crate::migration::setting::Setting;

/// Some capabilities and some parameters, by name.
#[derive(Clone, Debug, Default, PartialEq)]
struct Values {
    capabilities: BTreeMap<String, Value>,
    parameters: Map<String, Value>,
}

impl Values {
    /// Everything, as it is set now.
    fn read(vm: &mut Connection) -> Result<Self, QmpError> {
        let listed = vm.execute("query-migrate-capabilities", Map::new())?;
        let entry = |it: &Value| Some((it["capability"].as_str()?.to_owned(), it["state"].clone()));
        let parameters = vm.execute("query-migrate-parameters", Map::new())?;
        Ok(Self {
            capabilities: listed.as_array().into_iter().flatten().filter_map(entry).collect(),
            parameters: parameters.as_object().cloned().unwrap_or_default(),
        })
    }

    fn of(settings: &Settings) -> Self {
        let value = |setting: &Setting| match setting {
            // What no 64 bits hold is refused before it comes here.
            Setting::Number(number) => u64::try_from(*number).map_or_else(|_| json!(*number as i64), |it| json!(it)),
            Setting::Text(text) => json!(text),
            Setting::Flag(on) => json!(on),
        };
        Self {
            capabilities: settings.capabilities.iter().map(|(it, on)| (it.name().to_owned(), json!(on))).collect(),
            parameters: settings.parameters.iter().map(|(it, to)| (it.name.to_owned(), value(to))).collect(),
        }
    }

    /// Those of this that are not so in `other`.
    fn unlike(&self, other: &Self) -> Self {
        let new = |(_, value): &(&String, &Value), old: Option<&Value>| old != Some(*value);
        let own = |(name, value): (&String, &Value)| (name.clone(), value.clone());
        Self {
            capabilities: self
                .capabilities
                .iter()
                .filter(|it| new(it, other.capabilities.get(it.0)))
                .map(own)
                .collect(),
            parameters: self.parameters.iter().filter(|it| new(it, other.parameters.get(it.0))).map(own).collect(),
        }
    }

    /// What `other` has under the names of this.
    fn same_names_in(&self, other: &Self) -> Self {
        let found = |name: &String, value: Option<&Value>| Some((name.clone(), value?.clone()));
        Self {
            capabilities: self
                .capabilities
                .keys()
                .filter_map(|name| found(name, other.capabilities.get(name)))
                .collect(),
            parameters: self.parameters.keys().filter_map(|name| found(name, other.parameters.get(name))).collect(),
        }
    }

    fn set_capabilities(&self, vm: &mut Connection) -> Result<(), QmpError> {
        if self.capabilities.is_empty() {
            return Ok(());
        }
        let list: Vec<Value> =
            self.capabilities.iter().map(|(name, on)| json!({"capability": name, "state": on})).collect();
        vm.execute("migrate-set-capabilities", Map::from_iter([("capabilities".to_owned(), list.into())])).map(drop)
    }

    fn set_parameters(&self, vm: &mut Connection) -> Result<(), QmpError> {
        if self.parameters.is_empty() {
            return Ok(());
        }
        vm.execute("migrate-set-parameters", self.parameters.clone()).map(drop)
    }

    /// Sets all of it, or nothing: `before` is how it stands. The rules between the two kinds hold
    /// at every step, so that one order may do where the other does not.
    fn set(&self, vm: &mut Connection, before: &Self) -> Result<(), QmpError> {
        let first = self.set_parameters(vm).and_then(|()| {
            // What cannot be taken back is refused again below, with its reason.
            self.set_capabilities(vm).inspect_err(|_| drop(before.set_parameters(vm)))
        });
        first.or_else(|_| {
            self.set_capabilities(vm)?;
            self.set_parameters(vm).inspect_err(|_| drop(before.set_capabilities(vm)))
        })
    }
}

/// What was set, and what it was before.
#[derive(Debug, Default)]
pub struct Applied {
    now: Values,
    before: Values,
}

impl Applied {
    /// Sets what is not so already.
    pub fn set(vm: &mut Connection, settings: &Settings) -> Result<Self, QmpError> {
        let all = Values::read(vm)?;
        let now = Values::of(settings).unlike(&all);
        let before = now.same_names_in(&all);
        now.set(vm, &before)?;
        Ok(Self { now, before })
    }

    /// Puts back what nobody else has changed meanwhile.
    pub fn restore(&mut self, vm: &mut Connection) -> Result<(), QmpError> {
        if self.before == Values::default() {
            return Ok(());
        }
        let all = Values::read(vm)?;
        let changed = self.now.unlike(&all);
        let mut back = std::mem::take(&mut self.before);
        back.capabilities.retain(|name, _| !changed.capabilities.contains_key(name));
        back.parameters.retain(|name, _| !changed.parameters.contains_key(name));
        let back = back.unlike(&all);
        let as_it_stands = back.same_names_in(&all);
        back.set(vm, &as_it_stands)
    }

    /// What stays set.
    pub fn kept(&self) -> Vec<Kept> {
        let before = self.before.capabilities.iter().chain(&self.before.parameters);
        let now = |name: &String| self.now.capabilities.get(name).or_else(|| self.now.parameters.get(name));
        let kept = |(name, before): (&String, &Value)| Kept {
            name: name.clone(),
            now: now(name).cloned().unwrap_or(Value::Null),
            before: before.clone(),
        };
        before.map(kept).collect()
    }
}
