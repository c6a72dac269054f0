//! Pure. An object of any kind: its origin, its metadata and the fields of its kind.

use std::ops::Deref;
use std::sync::Arc;

use crate::objects::document::Document;
use crate::objects::origin::Origin;

use super::authorization::AuthorizationPolicy;
use super::gateway::{Gateway, GatewayClass};
use super::guard::Guard;
use super::item::{Head, Item};
use super::known::Kind;
use super::meta::Meta;
use super::peer::PeerAuthentication;
use super::pod::{Node, Pod, ServiceCidr};
use super::service::{EndpointSlice, Service, ServiceEntry};

/// An object of any kind. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Object {
    head: Arc<Head>,
    /// The fields of its kind.
    pub body: Body,
    /// The raw document, if the consumer asked for it.
    pub document: Option<Arc<Document>>,
}

/// The fields of each kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A Namespace: only its labels are used.
    Namespace,
    /// A Node: its labels, its addresses and the range of its pods are used.
    Node(Arc<Node>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Service.
    Service(Arc<Service>),
    /// A ServiceCIDR.
    ServiceCidr(Arc<ServiceCidr>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Gateway.
    Gateway(Arc<Gateway>),
    /// A GatewayClass.
    GatewayClass(Arc<GatewayClass>),
    /// A PeerAuthentication.
    PeerAuthentication(Arc<PeerAuthentication>),
    /// An AuthorizationPolicy.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// A RequestAuthentication: its targets.
    RequestAuthentication(Arc<Guard>),
    /// A MeshPolicy: the targets that it guards.
    MeshPolicy(Arc<Guard>),
    /// A ServiceEntry.
    ServiceEntry(Arc<ServiceEntry>),
    /// A kind that only waypoints read: nothing but its metadata is kept.
    ForWaypoints(Kind),
}

impl Object {
    /// An object that was read.
    pub(in crate::objects) fn new(at: Origin, meta: Meta, body: Body) -> Self {
        Self { head: Arc::new(Head { at, meta }), body, document: None }
    }

    /// The same with its document, if the consumer asked for it.
    pub(in crate::objects) fn with_document(self, document: Option<Document>) -> Self {
        Self { document: document.map(Arc::new), ..self }
    }

    /// The object as one of its kind, whose body was found in [`Object::body`].
    pub(crate) fn item<T>(&self, body: &Arc<T>) -> Item<T> {
        Item { head: Arc::clone(&self.head), spec: Arc::clone(body) }
    }

    /// Whether it is the very object that became this item, and not only an equal one.
    pub(in crate::objects) fn became<T>(&self, item: &Item<T>) -> bool {
        Arc::ptr_eq(&self.head, &item.head)
    }

    /// Whether both have the same effect on the model, whatever their origins.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.meta == other.meta && self.body == other.body
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::Namespace => Kind::Namespace,
            Body::Node(_) => Kind::Node,
            Body::Pod(_) => Kind::Pod,
            Body::Service(_) => Kind::Service,
            Body::ServiceCidr(_) => Kind::ServiceCidr,
            Body::EndpointSlice(_) => Kind::EndpointSlice,
            Body::Gateway(_) => Kind::Gateway,
            Body::GatewayClass(_) => Kind::GatewayClass,
            Body::PeerAuthentication(_) => Kind::PeerAuthentication,
            Body::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Body::RequestAuthentication(_) => Kind::RequestAuthentication,
            Body::MeshPolicy(_) => Kind::MeshPolicy,
            Body::ServiceEntry(_) => Kind::ServiceEntry,
            Body::ForWaypoints(kind) => *kind,
        }
    }
}

impl<T> Item<T> {
    /// The same as an object of any kind.
    pub(in crate::objects) fn into_object(self, body: impl FnOnce(Arc<T>) -> Body) -> Object {
        Object { head: self.head, body: body(self.spec), document: None }
    }
}

impl Deref for Object {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}
