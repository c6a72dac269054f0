//! The running source: looks at the directory, sends what changed to the sink, says how it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use mesh::model::name::NodeName;
use mesh::model::update::Update;

use super::directory::{Changes, Directory};
use super::status::{FileStatus, Status};
use super::touched::Touched;
use super::watch::{Watch, at};
use crate::batch::Batch;
use crate::objects::convert::Options;
use crate::objects::holders::Evidence;
use crate::objects::kind::{Kind, Object};
use crate::objects::problem::{Problem, Severity};
use crate::objects::world::{Question, World};

/// After a survey of all problems, the next one starts no earlier than this many times its duration: surveys take at
/// most 2 % of the time.
const SURVEY_PAUSE_FACTOR: u32 = 50;

/// What one look at a directory gives.
#[derive(Debug)]
pub struct Loaded {
    /// The whole mesh.
    pub updates: Vec<Update>,
    /// Everything that is wrong, by severity, file and line.
    pub problems: Vec<Problem>,
    /// How many objects of each kind are in effect.
    pub objects: BTreeMap<Kind, usize>,
    /// The objects that [`Options::documents`] asks for, each with its document, in the order of the files.
    pub documents: Vec<Object>,
}

/// How often the kernel is asked again while pods of this node disagree about an address.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Asks the kernel where addresses are: for each pod and address that it can see, whether it is there.
pub type Witness = Arc<dyn Fn(&[Question]) -> Evidence + Send + Sync>;

/// A directory of manifests as a source of updates.
pub struct ManifestSource {
    dir: PathBuf,
    options: Options,
    witness: Option<(NodeName, Witness)>,
    status: Arc<ArcSwap<Status>>,
}

/// The directory and all its objects: what a look at it needs.
struct State {
    directory: Directory,
    world: World,
    witness: Option<(NodeName, Witness)>,
    /// Problems between objects that were already logged.
    known: Vec<Problem>,
}

impl ManifestSource {
    /// A source that is not running yet.
    pub fn new(dir: impl Into<PathBuf>, options: Options) -> Self {
        let dir = dir.into();
        let status = Status { dir: dir.clone(), ..Status::default() };
        Self { dir, options, witness: None, status: Arc::new(ArcSwap::from_pointee(status)) }
    }

    /// The same, in which `witness` says what the kernel of this node shows where pods of the node claim what others
    /// claim. It may block.
    pub fn witnessed(self, node: NodeName, witness: Witness) -> Self {
        Self { witness: Some((node, witness)), ..self }
    }

    /// Reads a directory once. Nothing is logged: the problems are in the answer.
    pub fn load_once(dir: &Path, options: &Options) -> Loaded {
        let mut directory =
            Directory::new(dir.to_owned(), options.documents).with_local_addresses(&options.local_addresses);
        let mut world = World::new(options.clone());
        let changes = directory.refresh(&Touched::everything());
        let updates = world.change(&changes.of.removed, &changes.of.added);
        let mut problems: Vec<Problem> = directory.problems().cloned().chain(world.problems()).collect();
        problems.sort();
        Loaded { updates, problems, objects: world.inventory().counts(), documents: directory.with_documents() }
    }

    /// How the source is, now and later.
    pub fn status(&self) -> Arc<ArcSwap<Status>> {
        Arc::clone(&self.status)
    }

    /// Runs until shutdown. The first batch that the sink gets is the whole mesh, even if it is empty; before it,
    /// nothing is known. Every further batch is what a change comes to, and is never empty.
    ///
    /// Reading and converting happen on a blocking thread; the sink is called from this task.
    pub async fn run(self, sink: impl Fn(Batch) + Send, shutdown: CancellationToken) {
        let mut watch = Watch::new(&self.dir);
        let state = State {
            directory: Directory::new(self.dir.clone(), self.options.documents)
                .with_local_addresses(&self.options.local_addresses),
            world: World::new(self.options.clone()),
            witness: self.witness.clone(),
            known: Vec::new(),
        };
        let mut state = Box::new(state);
        let mut synced = false;
        let mut touched = Touched::everything();
        let mut survey_at: Option<Instant> = None;
        let mut survey_not_before = Instant::now();
        loop {
            let (changes, updates, asked);
            let Some(looked) = blocking(move || look(state, &touched)).await else { return };
            (state, changes, updates, asked) = looked;
            let ask_at = asked.then(|| Instant::now() + ASK_AGAIN);
            watch.follow(state.directory.elsewhere());
            changes.of.problems.iter().for_each(log);
            let first = !synced && !state.directory.is_missing();
            let updates_by_kernel = !updates.is_empty();
            let objects = (first || synced && changes.has_documents()).then(|| state.directory.with_documents());
            if first || !updates.is_empty() || objects.is_some() {
                synced = true;
                sink(Batch { updates, objects });
            }
            if changes.any || first || updates_by_kernel {
                survey_at.get_or_insert(survey_not_before.max(Instant::now()));
                self.publish(&state, synced);
            }
            let mut changed = std::pin::pin!(watch.changed());
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    seen = &mut changed => {
                        touched = seen;
                        break;
                    }
                    () = at(ask_at) => {
                        touched = Touched::default();
                        break;
                    }
                    () = at(survey_at) => {
                        let took;
                        let Some(surveyed) = blocking(move || survey(state)).await else { return };
                        (state, took) = surveyed;
                        survey_not_before = Instant::now() + took * SURVEY_PAUSE_FACTOR;
                        survey_at = None;
                        self.publish(&state, synced);
                    }
                }
            }
        }
    }

    fn publish(&self, state: &State, synced: bool) {
        let (loads, failures) = state.directory.counts();
        let mut problems: Vec<Problem> = state.directory.problems().chain(&state.known).cloned().collect();
        problems.sort();
        let troubled = state.directory.troubled().filter_map(|(path, file)| {
            let (last_good, loads, failures) = file.history();
            let last_good = last_good.and_then(rfc3339);
            let status = FileStatus { file: Arc::clone(path), broken: file.is_broken(), last_good, loads, failures };
            (failures > 0).then_some(status)
        });
        self.status.store(Arc::new(Status {
            dir: self.dir.clone(),
            synced,
            files: state.directory.len(),
            objects: state.world.inventory().counts(),
            loads,
            failures,
            last_change: rfc3339(SystemTime::now()),
            troubled: troubled.collect(),
            problems,
        }));
    }
}

/// Looks at what was touched; says too whether the kernel was asked anything, and so has to be asked again.
fn look(mut state: Box<State>, touched: &Touched) -> (Box<State>, Changes, Vec<Update>, bool) {
    let changes = state.directory.refresh(touched);
    let mut updates = state.world.change(&changes.of.removed, &changes.of.added);
    let mut asked = false;
    if let Some((node, witness)) = &state.witness {
        let questions = state.world.questions(node);
        asked = !questions.is_empty();
        let evidence = if asked { witness(&questions) } else { Evidence::default() };
        updates.extend(state.world.witness(evidence));
    }
    (state, changes, updates, asked)
}

/// Looks for problems between objects and logs the new ones.
fn survey(mut state: Box<State>) -> (Box<State>, Duration) {
    let begin = Instant::now();
    let problems = state.world.problems();
    problems.iter().filter(|problem| state.known.binary_search(problem).is_err()).for_each(log);
    state.known = problems;
    (state, begin.elapsed())
}

/// `None` when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

fn log(problem: &Problem) {
    match problem.severity {
        Severity::Error => tracing::error!("{problem}"),
        Severity::Warning => tracing::warn!("{problem}"),
        Severity::Info => tracing::info!("{problem}"),
    }
}

fn rfc3339(time: SystemTime) -> Option<String> {
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}
