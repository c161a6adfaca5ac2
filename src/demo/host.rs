//! What figures are from: the processor, the kernel, and which KVM runs the guests.

use std::fs::read_to_string;
use std::path::Path;

/// The modules that can run guests, and the processor's flag without which they cannot.
const MODULES: [(&str, Option<&str>); 3] = [("kvm_intel", Some("vmx")), ("kvm_amd", Some("svm")), ("kvm_pvm", None)];

/// The host, such as "AMD EPYC (2 processors, itself a virtual machine), Linux 6.18.44, guests by
/// `kvm_pvm`".
pub(super) fn described() -> String {
    let text = |path: &str| read_to_string(path).unwrap_or_default();
    let loaded = |name: &str| Path::new("/sys/module").join(name).exists();
    sentence(&text("/proc/cpuinfo"), text("/proc/sys/kernel/osrelease").trim(), loaded)
}

fn sentence(cpuinfo: &str, release: &str, loaded: impl Fn(&str) -> bool) -> String {
    let name = value(cpuinfo, "model name").map(|name| name.split_whitespace().collect::<Vec<_>>().join(" "));
    let processors = match cpuinfo.lines().filter(|line| line.starts_with("processor")).count() {
        1 => "1 processor".to_owned(),
        count => format!("{count} processors"),
    };
    let flags: Vec<_> = value(cpuinfo, "flags").unwrap_or_default().split_whitespace().collect();
    let inside = if flags.contains(&"hypervisor") { ", itself a virtual machine" } else { "" };
    // A module that is built in is there whether it can run guests or not.
    let able = |flag: &Option<&str>| flag.is_none_or(|flag| flags.contains(&flag));
    let modules: Vec<_> = MODULES.iter().filter(|(name, flag)| loaded(name) && able(flag)).map(|it| it.0).collect();
    let kvm = if modules.is_empty() { "a KVM of unknown kind".to_owned() } else { modules.join(" or ") };
    let name = name.unwrap_or_else(|| "a processor without a name".into());
    format!("{name} ({processors}{inside}), Linux {release}, guests by {kvm}")
}

/// The first value of that name.
fn value<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: AMD  EPYC\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\n";

    #[test]
    fn figures_name_processor_kernel_and_kvm() {
        let told = sentence(CPUINFO, "6.18", |name| name != "kvm_pvm");
        assert_eq!(told, "AMD EPYC (2 processors, itself a virtual machine), Linux 6.18, guests by kvm_amd");
        let told = sentence("processor : 0\n", "6.1", |_| false);
        assert_eq!(told, "a processor without a name (1 processor), Linux 6.1, guests by a KVM of unknown kind");
    }
}
