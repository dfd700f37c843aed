//! TLS to the server: rustls with `ring`, the one provider of this program.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::config::Target;
use super::fail::misconfigured;
use crate::StoreError;

/// Whose certificate is enough for `target`; `None` for plain text.
pub(super) fn connector(
    target: &Target,
    ca_file: Option<&Path>,
) -> Result<Option<MakeRustlsConnect>, StoreError> {
    if target.driver.get_ssl_mode() == SslMode::Disable {
        return Ok(None);
    }
    match ca_file {
        Some(path) => Ok(Some(MakeRustlsConnect::new(trusting(path)?))),
        None if target.must_verify => trusting_the_system().map(Some),
        None => Ok(Some(MakeRustlsConnect::new(trusting_anybody()?))),
    }
}

fn trusting(path: &Path) -> Result<ClientConfig, StoreError> {
    let told = |error: &dyn std::fmt::Display| {
        misconfigured(format!("read certificates from {}: {error}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| told(&error))? {
        let certificate = certificate.map_err(|error| told(&error))?;
        roots.add(certificate).map_err(|error| told(&error))?;
    }
    if roots.is_empty() {
        return Err(told(&"it holds none"));
    }
    let builder = builder()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn trusting_the_system() -> Result<MakeRustlsConnect, StoreError> {
    // The crate asks for the process's provider; a second installation changes nothing.
    let _installed = ring::default_provider().install_default();
    MakeRustlsConnect::with_native_certs()
        .map(|(connector, _unreadable)| connector)
        .map_err(|errors| misconfigured(format!("the system has no certificates to trust: {errors:?}")))
}

fn trusting_anybody() -> Result<ClientConfig, StoreError> {
    let verifier = Arc::new(Unverified(Arc::new(ring::default_provider())));
    Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, StoreError> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(misconfigured)
}

/// What `sslmode=prefer` means to every client of PostgreSQL: nobody can listen, but nobody vouches for the server.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
