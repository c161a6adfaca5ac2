use super::*;
use crate::migration::setting::Setting;

#[test]
fn every_parameter_reads_back_what_was_set() {
    for parameter in &PARAMETERS {
        let mut all = Parameters::default();
        let setting = match parameter.name {
            "x-keepalive" => 2000.into(),
            "postcopy-policy" => "stalled".into(),
            "multifd-compression" => "zstd".into(),
            "zero-page-detection" => "legacy".into(),
            "xbzrle-cache-size" => 4096.into(),
            "tls-creds" => "/etc/pki".into(),
            "cpu-throttle-tailslow" => true.into(),
            "tls-hostname" => "host.example.org".into(),
            "direct-io" => true.into(),
            "mode" => "normal".into(),
            _ => Setting::Number(7),
        };
        all.set(parameter, setting.clone()).unwrap();
        assert_eq!(all.get(parameter), setting, "{}", parameter.name);
        let others = PARAMETERS.iter().filter(|it| *it != parameter);
        // Two names of one thing.
        let policy = |it: &Parameter| matches!(it.name, "x-postcopy-after" | "postcopy-policy");
        for other in others.filter(|it| !(policy(it) && policy(parameter))) {
            assert_eq!(all.get(other), Parameters::default().get(other));
        }
    }
}

#[test]
fn values_out_of_range_change_nothing() {
    let mut all = Parameters::default();
    for (parameter, value) in [
        ("max-bandwidth", -1),
        ("downtime-limit", 2_000_001),
        ("x-postcopy-after", -2),
        ("announce-rounds", 1001),
        ("announce-step", 0),
        ("x-postcopy-after", 1 << 32),
        ("multifd-channels", 0),
        ("multifd-channels", 256),
        ("x-reconnect", 86_401),
        ("x-keepalive", 1999),
        ("x-keepalive", 28_800_001),
        ("tls-creds", 7),
        ("direct-io", 1),
        ("mode", 0),
        ("cpu-throttle-tailslow", 1),
        ("throttle-trigger-threshold", 101),
        ("cpu-throttle-initial", 0),
        ("cpu-throttle-increment", 100),
        ("max-cpu-throttle", 100),
        ("max-cpu-throttle", 257),
        ("vcpu-dirty-limit", 0),
        ("x-vcpu-dirty-limit-period", 0),
        ("x-vcpu-dirty-limit-period", 1001),
        ("multifd-compression", 1),
        ("multifd-zlib-level", 10),
        ("multifd-zstd-level", 21),
        ("multifd-zstd-level", -1),
        ("xbzrle-cache-size", 2048),
        ("xbzrle-cache-size", 12288),
    ] {
        assert!(all.set(Parameter::of(parameter), value).is_err());
    }
    for (parameter, text) in [
        ("max-bandwidth", "7"),
        ("tls-creds", "pki"),
        ("direct-io", "on"),
        ("multifd-compression", "qpl"),
        ("zero-page-detection", ""),
        ("mode", "cpr-transfer"),
        ("mode", ""),
    ] {
        assert!(all.set(Parameter::of(parameter), text).is_err());
    }
    assert!(all.set(Parameter::of("max-bandwidth"), true).is_err());
    for text in ["", "never", "stalled=1", "time", "time=", "time=0", "time=86401", "time=+5", "after-passes=-1"] {
        assert!(all.set(Parameter::of("postcopy-policy"), text).is_err(), "{text}");
    }
    assert!(all.set(Parameter::of("postcopy-policy"), "after-passes=4294967296").is_err());
    assert_eq!(all, Parameters::default());
    all.set(Parameter::of("x-postcopy-after"), -1).unwrap();
    assert_eq!(all.postcopy_policy, Policy::Manual);
}

#[test]
fn every_policy_reads_back_and_shows_its_passes_under_the_older_name() {
    for (text, policy, passes) in [
        ("manual", Policy::Manual, -1),
        ("stalled", Policy::Stalled, -1),
        ("after-passes=0", Policy::AfterPasses(0), 0),
        ("after-passes=7", Policy::AfterPasses(7), 7),
        ("time=86400", Policy::After(Duration::from_secs(86_400)), -1),
    ] {
        let mut all = Parameters::default();
        all.set(Parameter::of("postcopy-policy"), text).unwrap();
        assert_eq!(all.postcopy_policy, policy);
        assert_eq!(all.get(Parameter::of("postcopy-policy")), text.into());
        assert_eq!(all.get(Parameter::of("x-postcopy-after")), passes.into());
        all.set(Parameter::of("x-postcopy-after"), 3).unwrap();
        assert_eq!(all.get(Parameter::of("postcopy-policy")), "after-passes=3".into());
    }
}

#[test]
fn names_are_known_supported_or_neither() {
    assert!(matches!(Parameter::find("tls-authz"), Some(Err(_))));
    assert_eq!(Parameter::find("warp"), None);
}

#[test]
fn what_was_agreed_with_the_peer_is_not_live() {
    let of = |live| PARAMETERS.iter().filter(|it| it.live == live).map(|it| it.name).collect::<Vec<_>>();
    assert_eq!(of(Live::WhilePaused), ["tls-creds", "tls-hostname"]);
    let fixed = ["multifd-channels", "multifd-compression", "multifd-zlib-level", "multifd-zstd-level"];
    assert_eq!(of(Live::Never), [&fixed[..], &["zero-page-detection"]].concat());
}
