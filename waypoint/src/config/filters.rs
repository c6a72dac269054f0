//! Pure. Compiles `filters` of a rule or backend.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::reference::Resolver;
use super::schema::route::{
    CorsFilter, Filter, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
};
use super::status::Findings;
use crate::filter::{Cors, HeaderChanges, PathChange, Redirect, Rewrite};
use crate::identity;
use crate::route::{BackendTarget, Mirror};
use mesh::policy::path::{Normalization, normalize};

/// The filters of one rule or backend.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// `RequestHeaderModifier`.
    pub request_headers: HeaderChanges,
    /// `ResponseHeaderModifier`.
    pub response_headers: HeaderChanges,
    /// `URLRewrite`.
    pub rewrite: Option<Rewrite>,
    /// `RequestRedirect`.
    pub redirect: Option<Redirect>,
    /// `RequestMirror`, any number.
    pub mirrors: Vec<Mirror>,
    /// `CORS`.
    pub cors: Option<Arc<Cors>>,
    /// Why requests must be answered with an error: something asked for cannot be done, and leaving it out could let
    /// through what it was to hold back.
    pub failure: Option<String>,
}

/// Compiles filters. Incompatible ones reject the route; a mirror to nowhere is left out and reported.
pub fn compile(filters: &[Filter], resolver: &Resolver<'_>, findings: &mut Findings) -> Filters {
    let mut out = Filters::default();
    for filter in filters {
        if let Err(message) = one(filter, resolver, findings, &mut out) {
            findings.dropped.push(message.clone());
            out.failure.get_or_insert(message);
        }
    }
    for kind in ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS"] {
        if filters.iter().filter(|filter| filter.r#type == kind).count() > 1 {
            findings.reject("IncompatibleFilters", format!("{kind} may stand only once in a rule"));
        }
    }
    if out.redirect.is_some() && out.rewrite.is_some() {
        findings.reject("IncompatibleFilters", "RequestRedirect and URLRewrite exclude each other");
    }
    out
}

fn one(filter: &Filter, resolver: &Resolver<'_>, findings: &mut Findings, out: &mut Filters) -> Result<(), String> {
    let missing = || format!("filter {} has no settings of its type", filter.r#type);
    match filter.r#type.as_str() {
        "RequestHeaderModifier" => {
            let modifier = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
            out.request_headers = permitted(header_changes(modifier)?, &filter.r#type, findings);
        }
        "ResponseHeaderModifier" => {
            let modifier = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
            out.response_headers = permitted(header_changes(modifier)?, &filter.r#type, findings);
        }
        "RequestRedirect" => out.redirect = Some(redirect(filter.request_redirect.as_ref().ok_or_else(missing)?)?),
        "URLRewrite" => out.rewrite = Some(rewrite(filter.url_rewrite.as_ref().ok_or_else(missing)?)?),
        "CORS" => out.cors = Some(Arc::new(cors(filter.cors.as_ref().ok_or_else(missing)?)?)),
        "RequestMirror" => {
            out.mirrors.extend(mirror(filter.request_mirror.as_ref().ok_or_else(missing)?, resolver, findings)?);
        }
        other => return Err(format!("filter type {other:?} is not supported")),
    }
    Ok(())
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| format!("{text:?} is not a header name"))
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{text:?} is not a header value"))
}

fn header_changes(modifier: &HeaderModifier) -> Result<HeaderChanges, String> {
    let pairs = |headers: &[super::schema::route::Header]| {
        let pairs = headers.iter().map(|header| Ok((header_name(&header.name)?, header_value(&header.value)?)));
        pairs.collect::<Result<_, String>>()
    };
    let remove: Result<_, String> = modifier.remove.iter().map(|name| header_name(name)).collect();
    Ok::<_, String>(HeaderChanges { set: pairs(&modifier.set)?, add: pairs(&modifier.add)?, remove: remove? })
}

/// The changes without those to headers that only the mesh may write. Taking away what another proxy has said is no
/// forgery.
fn permitted(mut changes: HeaderChanges, filter: &str, findings: &mut Findings) -> HeaderChanges {
    let mut refuse = |name: &HeaderName, does: &str| {
        let message = format!("{filter} {does} {name}, which only the mesh may write: that is left out");
        findings.dropped.push(message);
        false
    };
    for (pairs, does) in [(&mut changes.set, "sets"), (&mut changes.add, "adds")] {
        if pairs.iter().any(|(name, _)| identity::is_reserved(name)) {
            let kept = pairs.iter().filter(|(name, _)| !identity::is_reserved(name) || refuse(name, does));
            *pairs = kept.cloned().collect();
        }
    }
    let foreign = |name: &HeaderName| name.as_str().starts_with("x-envoy-");
    let kept = changes.remove.iter();
    let kept = kept.filter(|name| !identity::is_reserved(name) || foreign(name) || refuse(name, "removes"));
    changes.remove = kept.cloned().collect();
    changes
}

fn path_change(modifier: &PathModifier) -> Result<PathChange, String> {
    let normal = |path: &str| {
        normalize(path.as_bytes(), Normalization::Base)
            .map(|path| path.into_owned())
            .map_err(|error| format!("path {path:?}: {error}"))
    };
    match (modifier.r#type.as_str(), &modifier.replace_full_path, &modifier.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), _) => Ok(PathChange::Full(normal(path)?.into())),
        ("ReplacePrefixMatch", _, Some(path)) if path.is_empty() => Ok(PathChange::prefix("")),
        ("ReplacePrefixMatch", _, Some(path)) => Ok(PathChange::prefix(&normal(path)?)),
        (kind, ..) => Err(format!("path type {kind:?} is not supported or has no value")),
    }
}

fn redirect(from: &RequestRedirect) -> Result<Redirect, String> {
    let status = from.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!("redirect status {status} is not one of 301, 302, 303, 307, 308"));
    }
    if let Some(scheme) = from.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        return Err(format!("redirect scheme {scheme:?} is neither http nor https"));
    }
    if let Some(hostname) = &from.hostname {
        header_value(hostname)?;
    }
    Ok(Redirect {
        scheme: from.scheme.as_deref().map(Arc::from),
        hostname: from.hostname.as_deref().map(Arc::from),
        path: from.path.as_ref().map(path_change).transpose()?,
        port: from.port,
        status,
    })
}

fn rewrite(from: &UrlRewrite) -> Result<Rewrite, String> {
    Ok(Rewrite {
        hostname: from.hostname.as_deref().map(header_value).transpose()?,
        path: from.path.as_ref().map(path_change).transpose()?,
    })
}

fn cors(from: &CorsFilter) -> Result<Cors, String> {
    let list = |values: &[String]| (!values.is_empty()).then(|| header_value(&values.join(", "))).transpose();
    if let Some(method) = from.allow_methods.iter().find(|method| *method != "*" && method.parse::<Method>().is_err()) {
        return Err(format!("{method:?} is not a method"));
    }
    Ok(Cors {
        origins: from.allow_origins.iter().map(|origin| origin.as_str().into()).collect(),
        credentials: from.allow_credentials.unwrap_or(false),
        methods: list(&from.allow_methods)?,
        headers: list(&from.allow_headers)?,
        expose: list(&from.expose_headers)?,
        max_age: from.max_age.unwrap_or(5),
    })
}

fn mirror(from: &RequestMirror, resolver: &Resolver<'_>, findings: &mut Findings) -> Result<Option<Mirror>, String> {
    let fraction = match (from.percent, from.fraction) {
        (Some(_), Some(_)) => return Err("a mirror takes percent or fraction, not both".to_owned()),
        (Some(percent), None) if percent > 100 => return Err(format!("mirror percent {percent} is above 100")),
        (Some(percent), None) => f64::from(percent) / 100.0,
        (None, Some(fraction)) => {
            let denominator = fraction.denominator.unwrap_or(100);
            if denominator == 0 || fraction.numerator > denominator {
                return Err(format!("mirror fraction {}/{denominator} is not within 0 to 1", fraction.numerator));
            }
            f64::from(fraction.numerator) / f64::from(denominator)
        }
        (None, None) => 1.0,
    };
    Ok(match resolver.target(&from.backend_ref, findings) {
        BackendTarget::Service(service, port) => Some(Mirror { service, port, fraction }),
        BackendTarget::Invalid(_) => None,
    })
}
