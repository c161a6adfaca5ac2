//! The links of a migration between processes: connecting to one, listening for one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use whimbrel_postcopy::channel::{
    Acceptor, Connector, DestinationTls, Dialer, Listener, SourceTls, TcpAddress, TlsError, UnixAddress,
};
use whimbrel_postcopy::destination::ListenAgain;
use whimbrel_postcopy::logging as log;

use super::CommandRefused;
use super::error::NO_WAY_TO_JOIN;
use super::options::Settings;
use super::parameters::Parameters;
use super::uri::Uri;
use crate::sync::lock;

/// With TLS the destination's certificate must be for `tls-hostname`, or for the host.
pub(super) fn connector(uri: &Uri, parameters: &Parameters) -> Result<Arc<dyn Connector>, CommandRefused> {
    let (dialer, host) = match uri {
        Uri::Tcp { host, port } => (Dialer::tcp(TcpAddress { host: host.clone(), port: *port }), Some(host)),
        Uri::Unix(path) => (Dialer::unix(UnixAddress(path.clone())), None),
        Uri::Stream(_) => return Err(NO_WAY_TO_JOIN),
    };
    let dialer = dialer.keepalive(parameters.keepalive);
    let Some(directory) = &parameters.tls_creds else { return Ok(Arc::new(dialer)) };
    let host = parameters.tls_hostname.as_ref().or(host).ok_or(TlsError::NoName)?;
    Ok(Arc::new(dialer.tls(SourceTls::load(directory, host)?)))
}

/// The same place once more, with the settings of that time.
pub(super) fn listen_again(place: Uri, settings: Arc<Mutex<Settings>>) -> ListenAgain {
    Box::new(move || {
        let parameters = lock(&settings).parameters.clone();
        let (listener, _) = listen(&place, &parameters).map_err(std::io::Error::other)?;
        Ok(Box::new(listener) as Box<dyn Acceptor>)
    })
}

/// The address listened on has its real port. What other hosts can reach without TLS is warned of.
pub(super) fn listen(uri: &Uri, parameters: &Parameters) -> Result<(Listener, Uri), CommandRefused> {
    let raise = |source| CommandRefused::Listen { uri: uri.clone(), source };
    let tls = parameters.tls_creds.as_deref().map(DestinationTls::load).transpose()?;
    let (listener, at) = match uri {
        Uri::Tcp { host, port } => {
            let listener = Listener::tcp(&TcpAddress { host: host.clone(), port: *port }).map_err(raise)?;
            if let Some(address) = listener.address().filter(|address| tls.is_none() && !is_loopback(*address)) {
                log::warn!("{}", OpenToAll(address));
            }
            let at = Uri::Tcp { host: host.clone(), port: listener.port().unwrap_or(*port) };
            (listener, at)
        }
        Uri::Unix(path) => (Listener::unix(&UnixAddress(path.clone())).map_err(raise)?, uri.clone()),
        Uri::Stream(_) => return Err(NO_WAY_TO_JOIN),
    };
    let listener = listener.keepalive(parameters.keepalive);
    Ok((
        match tls {
            None => listener,
            Some(tls) => listener.tls(tls),
        },
        at,
    ))
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What there is to say of an address that other hosts can reach.
#[derive(Debug, thiserror::Error)]
#[error(
    "the guest comes in at tcp:{0} neither encrypted nor authenticated: whoever reaches that address can read it or send another; \
     use '--tls-dir DIR', or an address in a network that nobody else is in"
)]
struct OpenToAll(SocketAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_other_hosts_cannot_reach_is_loopback() {
        for (address, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("[::ffff:0.0.0.0]:1", false),
            ("192.0.2.1:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), loopback, "{address}");
        }
    }
}
