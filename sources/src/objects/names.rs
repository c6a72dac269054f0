//! Pure. Validation of the names in an object, its own and those of others: a name that Kubernetes would not admit is
//! refused before it becomes part of an identity, a header, a label or a log line.

use mesh::model::syntax::Form;

use super::kind::Kind;
use super::node::{DecodeError, Node, Value};

/// A field that holds a name; `[]` stands for each item of a list.
type Field = (&'static [&'static str], Form);

const POD: &[Field] = &[
    (&["spec", "nodeName"], Form::Subdomain),
    (&["spec", "serviceAccountName"], Form::Subdomain),
    (&["spec", "runtimeClassName"], Form::Subdomain),
    (&["metadata", "ownerReferences", "[]", "name"], Form::Subdomain),
];
const SLICE: &[Field] = &[
    (&["endpoints", "[]", "nodeName"], Form::Subdomain),
    (&["endpoints", "[]", "zone"], Form::LabelValue),
    (&["endpoints", "[]", "targetRef", "name"], Form::Subdomain),
    (&["endpoints", "[]", "targetRef", "namespace"], Form::Label),
];
const ENTRY: &[Field] =
    &[(&["spec", "hosts", "[]"], Form::Host), (&["spec", "endpoints", "[]", "serviceAccount"], Form::Subdomain)];
const GATEWAY: &[Field] = &[(&["spec", "gatewayClassName"], Form::Subdomain)];

/// Checks the names of an object: its own, its namespace, its labels, and those by which it refers to others.
pub(super) fn check(kind: Kind, node: &Node) -> Result<(), DecodeError> {
    own_name(kind, node)?;
    field(node, &["metadata", "namespace"], Form::Label)?;
    if kind == Kind::Ignored {
        return Ok(());
    }
    labels(node)?;
    let fields = match kind {
        Kind::Pod => POD,
        Kind::EndpointSlice => SLICE,
        Kind::ServiceEntry => ENTRY,
        Kind::Gateway => GATEWAY,
        _ => &[],
    };
    fields.iter().try_for_each(|(path, form)| field(node, path, *form))
}

fn own_name(kind: Kind, node: &Node) -> Result<(), DecodeError> {
    let name = node.get("metadata").and_then(|metadata| metadata.get("name"));
    match name.map(|name| &name.value) {
        None | Some(Value::Null) => Err(serde::de::Error::custom("missing field `metadata.name`")),
        Some(Value::Text(text)) if text.is_empty() => Err(serde::de::Error::custom("`metadata.name` is empty")),
        // A ConfigMap or a Secret has no effect on the mesh, and its name is not used.
        Some(_) if kind == Kind::Ignored => Ok(()),
        Some(_) => {
            let label = matches!(kind, Kind::Namespace | Kind::Service);
            field(node, &["metadata", "name"], if label { Form::Label } else { Form::Subdomain })
        }
    }
}

fn labels(node: &Node) -> Result<(), DecodeError> {
    let labels = node.get("metadata").and_then(|metadata| metadata.get("labels")).map(|labels| &labels.value);
    let Some(Value::Map(entries)) = labels else { return Ok(()) };
    for (key, value) in entries {
        let steps = || vec![format!("[{}]", key.escape_debug()), "labels".to_owned(), "metadata".to_owned()];
        let wrong = |message: String| DecodeError::of(value.line, steps(), message);
        Form::LabelKey.check(key).map_err(wrong)?;
        value.text().map_or(Ok(()), |text| Form::LabelValue.check(text)).map_err(wrong)?;
    }
    Ok(())
}

/// Checks a field. Absent and empty fields are valid, and values that are not text are reported when the typed object
/// is read.
fn field(node: &Node, path: &[&str], form: Form) -> Result<(), DecodeError> {
    let Some((first, rest)) = path.split_first() else {
        let text = node.text().filter(|text| !text.is_empty());
        return text.map_or(Ok(()), |text| form.check(text)).map_err(|why| DecodeError::of(node.line, Vec::new(), why));
    };
    let below = |node: &Node, step: &dyn Fn() -> String| field(node, rest, form).map_err(|error| error.below(step()));
    match &node.value {
        Value::List(items) if *first == "[]" => {
            items.iter().enumerate().try_for_each(|(index, item)| below(item, &|| format!("[{index}]")))
        }
        _ => node.get(first).map_or(Ok(()), |node| below(node, &|| (*first).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::objects::kind::Shared;
    use crate::objects::parse::{Parsed, parse};

    fn read(text: &str) -> Parsed {
        parse(&Arc::from(Path::new("mesh.yaml")), text, &mut Shared::default())
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\n";

    #[test]
    fn an_object_with_a_name_that_is_none_is_refused_and_its_field_named() {
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                     metadata: {name: s, labels: {kubernetes.io/service-name: a}}\n";
        let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\n";
        for (text, object, field) in [
            (format!("{POD}metadata: {{name: 'a;b'}}\n"), "Pod default/a;b", "metadata.name"),
            (format!("{POD}metadata: {{name: A}}\n"), "Pod default/A", "metadata.name"),
            (format!("{POD}metadata: {{name: \"a\\nb\"}}\n"), "Pod default/a\\nb", "metadata.name"),
            (format!("{POD}metadata: {{name: a, namespace: a.b}}\n"), "Pod a.b/a", "metadata.namespace"),
            (format!("{POD}metadata: {{name: a, labels: {{app: 'x y'}}}}\n"), "Pod default/a", "metadata.labels[app]"),
            (format!("{POD}metadata: {{name: a, labels: {{'a b': x}}}}\n"), "Pod default/a", "metadata.labels[a b]"),
            (
                format!("{POD}metadata: {{name: a}}\nspec: {{serviceAccountName: 'x;URI=root,By=y'}}\n"),
                "Pod default/a",
                "spec.serviceAccountName",
            ),
            (
                format!("{POD}metadata: {{name: a}}\nspec: {{serviceAccountName: 'root/sa/x'}}\n"),
                "Pod default/a",
                "spec.serviceAccountName",
            ),
            (format!("{POD}metadata: {{name: a}}\nspec: {{nodeName: 'a b'}}\n"), "Pod default/a", "spec.nodeName"),
            (
                format!("{POD}metadata: {{name: a, ownerReferences: [{{kind: Job, name: \"b\\x1b\"}}]}}\n"),
                "Pod default/a",
                "metadata.ownerReferences[0].name",
            ),
            (
                format!("{slice}endpoints: [{{addresses: [192.0.2.1], nodeName: 'a/b'}}]\n"),
                "EndpointSlice default/s",
                "endpoints[0].nodeName",
            ),
            (format!("{entry}spec: {{hosts: [a.example, 'b example']}}\n"), "ServiceEntry default/e", "spec.hosts[1]"),
            (
                format!(
                    "{entry}spec: {{hosts: [a.example], endpoints: [{{address: 192.0.2.1, serviceAccount: 'a,b'}}]}}\n"
                ),
                "ServiceEntry default/e",
                "spec.endpoints[0].serviceAccount",
            ),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: a.b}\nspec: {}\n".to_owned(),
                "Service default/a.b",
                "metadata.name",
            ),
            (
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: 'a b'}\n".to_owned(),
                "HTTPRoute default/a b",
                "metadata.name",
            ),
        ] {
            let parsed = read(&format!("{text}---\n{POD}metadata: {{name: other}}\n"));
            let said: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
            assert!(said[0].contains(&format!("{object}: {field}: ")) && said[0].contains("must be"), "{said:?}");
            let kept: Vec<&str> = parsed.objects.iter().map(|object| object.meta.name.as_str()).collect();
            assert_eq!(kept, ["other"], "{text}");
        }
    }

    #[test]
    fn what_kubernetes_admits_is_read() {
        for text in [
            format!(
                "{POD}metadata: {{name: a.b-1, namespace: x-1, labels: {{app: '', a.b/c: X_1.y}}}}\nspec: {{serviceAccountName: a.b}}\n"
            ),
            format!("{POD}metadata: {{name: a}}\nspec: {{serviceAccountName: '', nodeName: ''}}\n"),
            "apiVersion: v1\nkind: Node\nmetadata: {name: ip-10-0-0-1.eu.example}\n".to_owned(),
        ] {
            let parsed = read(&text);
            assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
            assert_eq!(parsed.objects.len(), 1);
        }
    }

    #[test]
    fn a_policy_without_a_name_refuses_all_the_same() {
        let policy = |name: &str| {
            format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: '{name}'}}\n\
                 spec: {{action: DENY, rules: [{{}}]}}\n"
            )
        };
        let parsed = read(&[policy("a b"), policy("c d")].concat());
        assert_eq!(parsed.stand_ins.len(), 2);
        assert!(parsed.stand_ins[0].object.meta.name != parsed.stand_ins[1].object.meta.name);
    }
}
