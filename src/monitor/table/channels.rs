//! Where a migration goes, in QEMU's two ways to say it: `uri`, or `channels`, of which there is
//! one here.

use serde_json::{Map, Value};

use crate::migration::uri::{Reading, Stream, Uri, parse_offset};
use crate::monitor::args::{Args, Kind, Param};
use crate::monitor::error::CommandError;

pub(super) const URI: Param = Param::optional("uri", Kind::Text);
pub(super) const CHANNELS: Param = Param::optional(NAME, Kind::Array);
const NAME: &str = "channels";

/// The address of a command that takes both.
pub(super) fn address(args: &Args) -> Result<Uri, CommandError> {
    // As in QEMU an empty list is as good as none.
    match (args.optional_text(URI.name), args.array(NAME)) {
        (Some(uri), []) => Ok(uri.parse()?),
        (None, [_, ..]) => main(args.array(NAME)),
        _ => Err(CommandError::UriOrChannels),
    }
}

/// The address of the main channel, and of no other.
fn main(channels: &[Value]) -> Result<Uri, CommandError> {
    let mut found = None;
    for (n, channel) in channels.iter().enumerate() {
        let channel = Part::new(format!("{NAME}[{n}]"), channel)?;
        match channel.text("channel-type")? {
            "main" => {}
            "cpr" => return Err(CommandError::CprChannel),
            other => return Err(CommandError::not_accepted("channel-type", other, ["main"])),
        }
        let uri = place(&channel.part("addr")?)?;
        channel.has_only(&["channel-type", "addr"])?;
        if found.replace(uri).is_some() {
            return Err(CommandError::TwoMainChannels);
        }
    }
    // There is an entry, or it would be no list of channels.
    found.ok_or(CommandError::UriOrChannels)
}

/// QEMU's `MigrationAddress`.
fn place(address: &Part<'_>) -> Result<Uri, CommandError> {
    match address.text("transport")? {
        "socket" => socket(address),
        "exec" => {
            address.has_only(&["transport", "args"])?;
            Ok(Uri::Stream(Stream::Exec(shell_line(&address.texts("args")?))))
        }
        "file" => {
            address.has_only(&["transport", "filename", "offset"])?;
            let offset = address.number("offset")?;
            let path = address.text("filename")?.into();
            Ok(Uri::Stream(Stream::File { path, offset, reading: Reading::InOrder }))
        }
        "rdma" => Err(CommandError::NotBuilt { name: "transport", value: "rdma" }),
        other => Err(CommandError::not_accepted("transport", other, ["socket", "exec", "file"])),
    }
}

/// QEMU's `SocketAddress`.
fn socket(address: &Part<'_>) -> Result<Uri, CommandError> {
    match address.text("type")? {
        "inet" => {
            let (host, port) = (address.text("host")?, address.text("port")?);
            address.has_only(&["transport", "type", "host", "port"])?;
            let brackets = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            Ok(format!("tcp:{brackets}:{port}").parse()?)
        }
        "unix" => {
            let path = address.text("path")?;
            address.has_only(&["transport", "type", "path"])?;
            Ok(format!("unix:{path}").parse()?)
        }
        "fd" => {
            let name = address.text("str")?;
            address.has_only(&["transport", "type", "str"])?;
            Ok(format!("fd:{name}").parse()?)
        }
        "vsock" => Err(CommandError::NotBuilt { name: "type", value: "vsock" }),
        other => Err(CommandError::not_accepted("type", other, ["inet", "unix", "fd"])),
    }
}

/// What a shell executes as exactly these words.
fn shell_line(words: &[String]) -> String {
    match words {
        // It is what the line is given to anyway.
        [shell, option, line] if shell == "/bin/sh" && option == "-c" => line.clone(),
        _ => {
            let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
            format!("exec {}", quoted.join(" "))
        }
    }
}

/// An object in the arguments, and what to call it.
struct Part<'a> {
    at: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Part<'a> {
    fn new(at: String, value: &'a Value) -> Result<Self, CommandError> {
        match value.as_object() {
            Some(fields) => Ok(Self { at, fields }),
            None => Err(CommandError::WrongType { name: at, expected: "object" }),
        }
    }

    fn get(&self, name: &str) -> Result<&'a Value, CommandError> {
        self.fields.get(name).ok_or_else(|| CommandError::Missing(format!("{}.{name}", self.at)))
    }

    fn wrong(&self, name: &str, expected: &'static str) -> CommandError {
        CommandError::WrongType { name: format!("{}.{name}", self.at), expected }
    }

    fn text(&self, name: &str) -> Result<&'a str, CommandError> {
        self.get(name)?.as_str().ok_or_else(|| self.wrong(name, "string"))
    }

    fn part(&self, name: &str) -> Result<Self, CommandError> {
        Self::new(format!("{}.{name}", self.at), self.get(name)?)
    }

    /// At least one.
    fn texts(&self, name: &str) -> Result<Vec<String>, CommandError> {
        let all = self.get(name)?.as_array().ok_or_else(|| self.wrong(name, "array"))?;
        let texts: Option<Vec<String>> = all.iter().map(|it| it.as_str().map(str::to_owned)).collect();
        texts.filter(|texts| !texts.is_empty()).ok_or_else(|| self.wrong(name, "array of strings"))
    }

    fn number(&self, name: &str) -> Result<u64, CommandError> {
        let number = self.get(name)?.as_u64().ok_or_else(|| self.wrong(name, "integer"))?;
        parse_offset(&number.to_string()).ok_or_else(|| self.wrong(name, "integer"))
    }

    fn has_only(&self, known: &[&str]) -> Result<(), CommandError> {
        match self.fields.keys().find(|key| !known.contains(&key.as_str())) {
            Some(other) => Err(CommandError::unexpected(&format!("{}.{other}", self.at), known.iter().copied())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(arguments: Value) -> Result<String, String> {
        let Value::Object(arguments) = arguments else { panic!("no object") };
        let args = Args::check(&[URI, CHANNELS], arguments).map_err(|error| error.to_string())?;
        address(&args).map(|uri| uri.to_string()).map_err(|error| error.to_string())
    }

    fn main_at(addr: Value) -> Result<String, String> {
        asked(json!({"channels": [{"channel-type": "main", "addr": addr}]}))
    }

    #[test]
    fn a_channel_s_address_is_an_address_like_others() {
        for (addr, uri) in [
            (json!({"transport": "socket", "type": "inet", "host": "::1", "port": "4444"}), "tcp:[::1]:4444"),
            (json!({"transport": "socket", "type": "inet", "host": "h", "port": "0"}), "tcp:h:0"),
            (json!({"transport": "socket", "type": "unix", "path": "/run/a"}), "unix:/run/a"),
            (json!({"transport": "socket", "type": "fd", "str": "out"}), "fd:out"),
            (json!({"transport": "file", "filename": "/a,offset=x", "offset": 4096}), "file:/a,offset=x,offset=4096"),
            (json!({"transport": "exec", "args": ["/bin/sh", "-c", "cat > g"]}), "exec:cat > g"),
            (json!({"transport": "exec", "args": ["/bin/cat", "it's"]}), r"exec:exec '/bin/cat' 'it'\''s'"),
        ] {
            assert_eq!(main_at(addr).as_deref(), Ok(uri));
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_named_as_in_qemu() {
        let one = json!({"channel-type": "main", "addr": {"transport": "socket", "type": "unix", "path": "/a"}});
        let either = "need either 'uri' or 'channels' argument";
        for (arguments, error) in [
            (json!({}), either),
            (json!({"channels": []}), either),
            (json!({"uri": "unix:/a", "channels": [one]}), either),
            (json!({"channels": [one, one]}), "Channel list has more than one main entry"),
            (json!({"channels": [7]}), "Invalid parameter type for 'channels[0]', expected: object"),
            (json!({"channels": [{"channel-type": "main"}]}), "Parameter 'channels[0].addr' is missing"),
            (
                json!({"channels": [{"channel-type": "x", "addr": {}}]}),
                "Parameter 'channel-type' does not accept value 'x'",
            ),
        ] {
            assert_eq!(asked(arguments).as_ref().map_err(String::as_str), Err(error));
        }
        assert_eq!(asked(json!({"uri": "unix:/a", "channels": []})).as_deref(), Ok("unix:/a"));
        let cpr = asked(json!({"channels": [{"channel-type": "cpr", "addr": {}}]})).unwrap_err();
        assert!(cpr.contains("'cpr'") && cpr.contains("x-ignore-shared"), "{cpr}");
        for (addr, word) in [
            (json!({"transport": "socket", "type": "inet", "host": "h"}), "'channels[0].addr.port' is missing"),
            (json!({"transport": "socket", "type": "inet", "host": "h", "port": "x"}), "'tcp:h:x'"),
            (
                json!({"transport": "socket", "type": "inet", "host": "h", "port": "1", "to": 9}),
                "addr.to' is unexpected",
            ),
            (json!({"transport": "socket", "type": "unix", "path": "a", "abstract": true}), "addr.abstract'"),
            (json!({"transport": "socket", "type": "vsock", "cid": "1", "port": "1"}), "'vsock' is not supported"),
            (json!({"transport": "rdma", "host": "h", "port": "1"}), "'rdma' is not supported"),
            (json!({"transport": "exec", "args": []}), "'channels[0].addr.args'"),
            (json!({"transport": "file", "filename": "/a", "offset": -1}), "'channels[0].addr.offset'"),
            (json!({"transport": "file", "filename": "/a"}), "'channels[0].addr.offset' is missing"),
        ] {
            let error = main_at(addr).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
