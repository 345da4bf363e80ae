//! The first two stages: the source arrives, and checkout, image and sandbox are made ready.

use std::sync::Arc;

use bryo_image::{Image, ImageStore};
use bryo_model::{RuntimeKind, Stage};
use bryo_process::Program;
use bryo_sandbox::{Host, Root, Runtime, UserIds};
use bryo_source::{Checkout, Fetched, SourceCache};
use tokio_util::io::SyncIoBridge;

use crate::attempt::{Attempt, Beside};
use crate::cause::Cause;
use crate::setup::{Setup, sweep};

/// The role of this program that unpacks image layers, started inside the user namespace.
const UNPACK_ROLE: &str = "__unpack-layer";

/// What of an image is on its way to podman at one time, in bytes.
const ARCHIVE_IN_FLIGHT: usize = 1 << 20;

/// What unpacks and removes layers, as root of the helper's namespace.
pub(crate) fn unpacker(host: &Host) -> Program {
    host.userns()
        .inside()
        .arg("/proc/self/exe")
        .arg(UNPACK_ROLE)
}

/// Everything for the run stage.
pub(crate) struct ReadyToRun {
    pub(crate) setup: Setup,
    pub(crate) root: Root,
    pub(crate) home: Option<String>,
}

impl Attempt<'_> {
    pub(crate) async fn fetch(&mut self, source: &SourceCache) -> Result<Fetched, Cause> {
        let progress = self.events.progress(Stage::Fetch);
        let fetched = self
            .guarded(source.fetch(&self.job.source, progress))
            .await?
            .map_err(Cause::Source)?;
        self.record.commit = Some(fetched.commit().clone());
        self.record.source_cached = Some(fetched.was_cached());
        let how = if fetched.was_cached() { ", cached" } else { "" };
        let summary = format!(
            "{} {}{how}",
            fetched.description(),
            fetched.commit().short()
        );
        self.record.end(&self.events, summary).await;
        for notice in fetched.notices() {
            self.events.notice(notice).await;
        }
        Ok(fetched)
    }

    pub(crate) async fn prepare(
        &mut self,
        source: &SourceCache,
        fetched: &Fetched,
        beside: &mut Beside,
    ) -> Result<(Checkout, Image, Setup), Cause> {
        let progress = self.events.progress(Stage::Prepare);
        let checkout = self
            .guarded(source.checkout(fetched, progress))
            .await?
            .map_err(Cause::Source)?;
        let image = match beside.image.as_mut() {
            Some(image) => self.guarded(image).await?,
            None => return Err(Cause::Task("the image".to_owned())),
        };
        let image = image
            .map_err(|_| Cause::Task("the image".to_owned()))?
            .map_err(Cause::Image)?;
        self.record.image_cached = Some(image.was_cached());
        self.record.image_digest = Some(image.manifest_digest().to_string());
        let setup = match beside.setup.as_mut() {
            Some(setup) => self.guarded(setup).await?,
            None => return Err(Cause::Task("the sandbox's set-up".to_owned())),
        };
        beside.setup = None;
        let setup = setup
            .map_err(|_| Cause::Task("the sandbox's set-up".to_owned()))?
            .map_err(Cause::Sandbox)?;
        self.record.runtime = Some(setup.runtime.kind());
        if let Some(advice) = &setup.advice {
            self.events.notice(advice.clone()).await;
        }
        self.host = Some(setup.host.clone());
        if self.engine.hosts().sweep_is_due(setup.runtime.kind()) {
            beside.sweep = Some(tokio::spawn(sweep(
                setup.host.clone(),
                Arc::clone(&setup.runtime),
                self.settings.clone(),
                self.over.clone().cancelled_owned(),
            )));
        }
        Ok((checkout, image, setup))
    }

    /// The image becomes what the runtime takes as a root file system.
    pub(crate) async fn make_root(
        &mut self,
        images: &Arc<ImageStore>,
        image: &Image,
        setup: Setup,
    ) -> Result<ReadyToRun, Cause> {
        let made = match setup.runtime.kind() {
            RuntimeKind::Crun => self.layers(images, image, &setup.host).await,
            RuntimeKind::Podman => self.podman_image(images, image, &setup.runtime).await,
        };
        match made {
            Ok((root, home)) => Ok(ReadyToRun { setup, root, home }),
            Err(cause) => {
                let _ = setup.runtime.release(setup.ready).await;
                Err(cause)
            }
        }
    }

    async fn layers(
        &mut self,
        images: &ImageStore,
        image: &Image,
        host: &Host,
    ) -> Result<(Root, Option<String>), Cause> {
        let progress = self.events.progress(Stage::Prepare);
        let unpacker = unpacker(host);
        let layers = self
            .guarded(images.unpack(image, self.slot(), &unpacker, progress))
            .await?
            .map_err(Cause::Image)?;
        let user = layers.user(image.config().user()).map_err(Cause::Image)?;
        let root = Root::Layers {
            dirs: layers.dirs().to_vec(),
            user: UserIds {
                uid: user.uid,
                gid: user.gid,
                groups: user.additional_gids,
            },
        };
        self.held = Some(layers);
        Ok((root, Some(user.home)))
    }

    async fn podman_image(
        &self,
        images: &Arc<ImageStore>,
        image: &Image,
        runtime: &Runtime,
    ) -> Result<(Root, Option<String>), Cause> {
        if let Some(advice) = runtime.advice() {
            self.events.notice(advice).await;
        }
        let id = image.config_digest().hex();
        if !self
            .guarded(runtime.has_image(&id))
            .await?
            .map_err(Cause::Sandbox)?
        {
            let (reader, writer) = tokio::io::duplex(ARCHIVE_IN_FLIGHT);
            let writer = SyncIoBridge::new(writer);
            let (images, image) = (Arc::clone(images), image.clone());
            let write =
                tokio::task::spawn_blocking(move || images.write_oci_archive(&image, writer));
            let loaded = self.guarded(runtime.load_image(&id, reader)).await?;
            // A writer whose reader went away fails too; the reader's reason is the one that counts.
            loaded.map_err(Cause::Sandbox)?;
            write
                .await
                .map_err(|_| Cause::Task("the image's export".to_owned()))?
                .map_err(Cause::Image)?;
        }
        let user = image.config().user().to_owned();
        // The image is not unpacked here, so its list of users is not known.
        let name = user.split(':').next().unwrap_or_default();
        let home = if matches!(name, "" | "0" | "root") {
            "/root"
        } else {
            "/"
        };
        Ok((Root::PodmanImage { id, user }, Some(home.to_owned())))
    }

    pub(crate) async fn end_prepare(
        &mut self,
        checkout: &Checkout,
        image: &Image,
        beside: &mut Beside,
    ) {
        let digest = image.manifest_digest().to_string();
        let short: String = digest.chars().take("sha256:".len() + 12).collect();
        let runtime = self.record.runtime.map_or(String::new(), |r| r.to_string());
        self.record
            .end(&self.events, format!("image {short}, {runtime}"))
            .await;
        for notice in checkout.notices() {
            self.events.notice(notice).await;
        }
        // Told when known: a large work tree must not hold up the job.
        if let Some(changes) = beside.changes.take_if(|c| c.is_finished()) {
            self.tell_changes(changes).await;
        }
    }
}
