//! Pure. W3C baggage with the labels of a workload, in ztunnel's format.
//!
//! W3C Baggage, sections 3.2 and 3.3: members `key=value;property`, percent-encoded, separated by commas. Unknown and
//! malformed members are skipped: baggage only labels telemetry, no decision depends on it.

use std::fmt::Write;

use mesh::model::name::{ClusterId, Name, Namespace};
use mesh::model::workload::{Workload, WorkloadType};

/// Bytes of baggage that are read (W3C Baggage, 3.3.2).
const LONGEST: usize = 8192;
/// Members that are read (W3C Baggage, 3.3.2).
const MEMBERS: usize = 64;
/// Longest accepted value in bytes: no Kubernetes name is longer than 253.
const LONGEST_VALUE: usize = 256;

/// The labels of a workload for its peer's telemetry. An absent field was not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<ClusterId>,
    /// `k8s.namespace.name`.
    pub namespace: Option<Namespace>,
    /// Kind and name of the owner: `k8s.deployment.name` and the like.
    pub workload: Option<(WorkloadType, Name)>,
    /// `service.name`: the canonical service.
    pub service: Option<Name>,
    /// `service.version`: the canonical revision.
    pub version: Option<Name>,
    /// `cloud.region`.
    pub region: Option<Name>,
    /// `cloud.availability_zone`.
    pub zone: Option<Name>,
}

impl Baggage {
    /// The labels of `workload`.
    pub fn of(workload: &Workload) -> Self {
        let some = |name: &Name| (!name.is_empty()).then(|| name.clone());
        let locality = workload.locality.as_deref();
        Self {
            cluster: Some(workload.cluster.clone()),
            namespace: Some(workload.namespace.clone()),
            workload: Some((workload.workload_type, workload.workload_name.clone())),
            service: some(&workload.canonical_name),
            version: some(&workload.canonical_revision),
            region: locality.and_then(|l| some(&l.region)),
            zone: locality.and_then(|l| some(&l.zone)),
        }
    }

    /// Parses a header value. Never fails: malformed members are left out.
    pub fn parse(header: &str) -> Self {
        let mut baggage = Self::default();
        let end = (0..=LONGEST.min(header.len())).rev().find(|end| header.is_char_boundary(*end)).unwrap_or(0);
        for member in header[..end].split(',').take(MEMBERS) {
            let Some((key, value)) = member.split_once('=') else { continue };
            let value = value.split(';').next().unwrap_or_default().trim();
            let Some(value) = decode(value) else { continue };
            baggage.set(key.trim(), &value);
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "k8s.cluster.name" => self.cluster = Some(value.into()),
            "k8s.namespace.name" => self.namespace = Some(value.into()),
            "k8s.deployment.name" => self.workload = Some((WorkloadType::Deployment, value.into())),
            "k8s.cronjob.name" => self.workload = Some((WorkloadType::Cronjob, value.into())),
            "k8s.pod.name" => self.workload = Some((WorkloadType::Pod, value.into())),
            "k8s.job.name" => self.workload = Some((WorkloadType::Job, value.into())),
            "service.name" => self.service = Some(value.into()),
            "service.version" => self.version = Some(value.into()),
            "cloud.region" => self.region = Some(value.into()),
            "cloud.availability_zone" => self.zone = Some(value.into()),
            _ => {}
        }
    }

    /// Formats the header value; empty when no label is known.
    pub fn print(&self) -> String {
        let workload = self.workload.as_ref().map(|(kind, name)| {
            let key = match kind {
                WorkloadType::Deployment => "k8s.deployment.name",
                WorkloadType::Cronjob => "k8s.cronjob.name",
                WorkloadType::Pod => "k8s.pod.name",
                WorkloadType::Job => "k8s.job.name",
            };
            (key, name.as_str())
        });
        let members = [
            self.cluster.as_deref().map(|value| ("k8s.cluster.name", value)),
            self.namespace.as_deref().map(|value| ("k8s.namespace.name", value)),
            workload,
            self.service.as_deref().map(|value| ("service.name", value)),
            self.version.as_deref().map(|value| ("service.version", value)),
            self.region.as_deref().map(|value| ("cloud.region", value)),
            self.zone.as_deref().map(|value| ("cloud.availability_zone", value)),
        ];
        let mut header = String::with_capacity(160);
        for (key, value) in members.into_iter().flatten().filter(|(_, value)| !value.is_empty()) {
            if !header.is_empty() {
                header.push(',');
            }
            header.push_str(key);
            header.push('=');
            encode(value, &mut header);
        }
        header
    }
}

/// Percent-decodes a value. `None` if it is empty, too long or not UTF-8. A `%` without two hexadecimal digits stands
/// for itself.
fn decode(value: &str) -> Option<String> {
    if !value.contains('%') {
        return (!value.is_empty() && value.len() <= LONGEST_VALUE).then(|| value.to_owned());
    }
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    let decoded = String::from_utf8(decoded).ok()?;
    (!decoded.is_empty() && decoded.len() <= LONGEST_VALUE).then_some(decoded)
}

/// Percent-encodes everything but `baggage-octet` (W3C Baggage, 3.2.1), and `%` itself.
fn encode(value: &str, header: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'%' | b'"' | b',' | b';' | b'\\' => _ = write!(header, "%{byte:02X}"),
            0x21..=0x7e => header.push(char::from(byte)),
            _ => _ = write!(header, "%{byte:02X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shop() -> Baggage {
        Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("default".into()),
            workload: Some((WorkloadType::Deployment, "shop-v1".into())),
            service: Some("shop".into()),
            version: Some("v1".into()),
            region: Some("r1".into()),
            zone: Some("z1".into()),
        }
    }

    #[test]
    fn baggage_reads_as_ztunnel_writes_it() {
        let header = "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=shop-v1,\
                      service.name=shop,service.version=v1,cloud.region=r1,cloud.availability_zone=z1";
        assert_eq!(Baggage::parse(header), shop());
        assert_eq!(shop().print(), header);
    }

    #[test]
    fn empty_members_are_left_out() {
        let baggage = Baggage { service: Some("".into()), version: Some("v1".into()), ..Baggage::default() };
        assert_eq!(baggage.print(), "service.version=v1");
        assert_eq!(Baggage::parse("service.name=,service.version=v1").service, None);
        assert_eq!(Baggage::default().print(), "");
        assert_eq!(Baggage::parse(""), Baggage::default());
    }

    #[test]
    fn what_is_unknown_or_broken_is_skipped() {
        let header = " k8s.job.name = nightly ;ttl=1 ,,=,x=y,service.name,service.version=%ff,cloud.region=a%2Cb%2,z";
        let baggage = Baggage::parse(header);
        assert_eq!(baggage.workload, Some((WorkloadType::Job, "nightly".into())));
        assert_eq!(baggage.version, None);
        assert_eq!(baggage.region, Some("a,b%2".into()));
    }

    #[test]
    fn a_hostile_header_costs_a_bounded_amount() {
        let long = format!("service.name={},service.version=v1", "x".repeat(LONGEST_VALUE + 1));
        assert_eq!(Baggage::parse(&long), Baggage { version: Some("v1".into()), ..Baggage::default() });
        let many = format!("{}service.name=shop", "a=b,".repeat(MEMBERS));
        assert_eq!(Baggage::parse(&many), Baggage::default());
        let far = format!("a={},service.name=shop", "é".repeat(LONGEST));
        assert_eq!(Baggage::parse(&far), Baggage::default());
    }

    proptest! {
        #[test]
        fn any_text_parses(header in ".{0,300}") {
            Baggage::parse(&header);
        }

        #[test]
        fn what_is_printed_parses_again(service in "\\PC{1,60}", zone in "[ -~]{1,60}") {
            let baggage = Baggage { service: Some(service.into()), zone: Some(zone.into()), ..shop() };
            let printed = baggage.print();
            prop_assert!(http::HeaderValue::from_str(&printed).is_ok());
            prop_assert_eq!(Baggage::parse(&printed), baggage);
        }
    }
}
