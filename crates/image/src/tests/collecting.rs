//! What is removed of a store that others use at the same time.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bryo_model::{Cached, CachedKind, ImageRef};

use super::build::{TestImage, TestLayer};
use super::{World, names, quiet, unpacker};
use tokio::sync::{Barrier, watch};

use crate::lock::Lock;
use crate::{ImageStore, PullOptions};

fn of(all: &[Cached], kind: CachedKind) -> Vec<&Cached> {
    all.iter().filter(|one| one.kind == kind).collect()
}

async fn remove(store: &ImageStore, one: &Cached) -> bool {
    match one.kind {
        CachedKind::Layer => store.remove_layer(one, &unpacker(&[])).await.unwrap(),
        _ => store.remove_blobs(one).unwrap(),
    }
}

async fn remove_all(store: &ImageStore) -> usize {
    let mut removed = 0;
    for one in store.list().unwrap() {
        removed += usize::from(remove(store, &one).await);
    }
    removed
}

fn base() -> TestLayer {
    TestLayer::new().file("base", &"base".repeat(5000))
}

fn archive(world: &World, name: &str, layers: Vec<TestLayer>) -> String {
    let file = world.path(name);
    TestImage::new(layers).write_oci_archive(&file);
    format!("oci-archive:{}", file.display())
}

#[tokio::test]
async fn what_a_job_uses_stays_and_what_images_share_goes_with_the_last() {
    let world = World::new();
    let one = archive(
        &world,
        "one.tar",
        vec![base(), TestLayer::new().file("a", "1")],
    );
    let two = archive(
        &world,
        "two.tar",
        vec![base(), TestLayer::new().file("b", "2")],
    );
    let held = world.resolve(one.as_str()).await.unwrap();
    let layers = world.unpack(&held).await.unwrap();
    let other = world.resolve(two.as_str()).await.unwrap();
    drop(world.unpack(&other).await.unwrap());
    drop(other);

    let all = world.store.list().unwrap();
    let images = of(&all, CachedKind::Image);
    assert_eq!((all.len(), images.len()), (5, 2), "{all:#?}");
    assert!(all.iter().all(|one| one.bytes > 0 && !one.worthless));
    let called = |name: &str| {
        *images
            .iter()
            .find(|i| i.called.as_deref() == Some(name))
            .unwrap()
    };
    assert!(called(&one).in_use && !called(&two).in_use);
    // What both have counts for the one that was used last.
    assert!(called(&two).bytes > called(&one).bytes && called(&two).files == 4);
    assert!(called(&two).last_used > called(&one).last_used);
    let in_use = of(&all, CachedKind::Layer)
        .iter()
        .filter(|l| l.in_use)
        .count();
    assert_eq!(in_use, 2);

    // One image and one layer: the rest is held.
    assert_eq!(remove_all(&world.store).await, 2);
    assert_eq!(
        fs::read(layers.dirs()[1].join("base")).unwrap().len(),
        20_000
    );
    let mut out = Vec::new();
    world.store.write_oci_archive(&held, &mut out).unwrap();
    assert!(out.len() > 1000);
    drop((held, layers));
    assert_eq!(remove_all(&world.store).await, 3);
    for dir in ["blobs/sha256", "layers", "index", "tmp"] {
        assert!(names(&world.path("store").join(dir)).is_empty(), "{dir}");
    }
    let again = world.resolve(two.as_str()).await.unwrap();
    let layers = world.unpack(&again).await.unwrap();
    assert_eq!(fs::read(layers.dirs()[0].join("b")).unwrap(), b"2");
}

#[tokio::test]
async fn an_image_is_never_older_than_its_layers() {
    let world = World::new();
    let name = archive(&world, "one.tar", vec![base()]);
    for _ in 0..2 {
        let image = world.resolve(name.as_str()).await.unwrap();
        drop(world.unpack(&image).await.unwrap());
        drop(image);
        let all = world.store.list().unwrap();
        let used = |kind| of(&all, kind)[0].last_used;
        assert!(used(CachedKind::Image) >= used(CachedKind::Layer));
        assert!(
            of(&all, CachedKind::Layer)[0]
                .idle(std::time::SystemTime::now())
                .as_secs()
                < 60
        );
    }
}

#[tokio::test]
async fn nothing_of_an_image_that_comes_in_is_taken() {
    let world = World::new();
    let stray = crate::Digest::of(b"stray");
    fs::write(world.store.paths.blob(&stray), b"stray").unwrap();
    let name = archive(&world, "one.tar", vec![base()]);
    drop(world.resolve(name.as_str()).await.unwrap());
    let coming = Lock::share(&world.store.paths.blobs_lock()).await.unwrap();
    let all = world.store.list().unwrap();
    assert!(of(&all, CachedKind::Blob)[0].in_use);
    assert_eq!(remove_all(&world.store).await, 0);
    drop(coming);
    assert_eq!(remove_all(&world.store).await, 2);
}

#[tokio::test]
async fn what_a_kill_left_is_used_or_removed() {
    let world = World::new();
    let name = archive(&world, "one.tar", vec![base()]);
    let image = world.resolve(name.as_str()).await.unwrap();
    drop(world.unpack(&image).await.unwrap());
    // An image whose manifest has gone, and a layer that is on its way out.
    fs::remove_file(world.store.paths.blob(image.manifest_digest())).unwrap();
    let diff_id = *image.layers()[0].diff_id();
    drop(image);
    let slot = bryo_model::IdSlot::SHARED;
    let going = world.store.paths.unpacking(&diff_id, slot);
    fs::rename(world.store.paths.layer(&diff_id, slot), &going).unwrap();
    fs::remove_file(going.join("meta.json")).unwrap();
    let all = world.store.list().unwrap();
    assert_eq!(of(&all, CachedKind::Blob).len(), 2, "{all:#?}");
    assert!(world.store.has_leftovers());

    let image = world.resolve(name.as_str()).await.unwrap();
    let layers = world.unpack(&image).await.unwrap();
    assert!(layers.dirs()[0].join("base").exists());
    assert!(!world.store.has_leftovers());
    drop((image, layers));

    fs::rename(world.store.paths.layer(&diff_id, slot), &going).unwrap();
    world.store.remove_leftovers(&unpacker(&[])).await;
    assert!(!world.store.has_leftovers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn attempts_have_whole_images_whatever_is_removed_meanwhile() {
    const ROUNDS: usize = 15;
    let world = World::new();
    let name = archive(
        &world,
        "one.tar",
        vec![base(), TestLayer::new().file("a", "1")],
    );
    let image: ImageRef = name.parse().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let (passed, passes) = watch::channel(0_usize);
    let collector = tokio::spawn({
        let (store, over) = (world.store.clone(), Arc::clone(&over));
        async move {
            let mut removed = 0;
            while !over.load(Ordering::Relaxed) {
                removed += remove_all(&store).await;
                passed.send_modify(|n| *n += 1);
                tokio::task::yield_now().await;
            }
            removed
        }
    });
    let together = Arc::new(Barrier::new(3));
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (store, image) = (world.store.clone(), image.clone());
        let (together, mut passes) = (Arc::clone(&together), passes.clone());
        attempts.spawn(async move {
            for _ in 0..ROUNDS {
                // Nobody holds anything for a whole pass; then all begin, beside the next one.
                together.wait().await;
                let seen = *passes.borrow();
                passes.wait_for(|n| *n >= seen + 2).await.unwrap();
                let options = PullOptions::default();
                let image = store.resolve(&image, &options, quiet()).await.unwrap();
                let slot = bryo_model::IdSlot::SHARED;
                let layers = store.unpack(&image, slot, &unpacker(&[]), quiet()).await;
                let layers = layers.unwrap();
                tokio::task::yield_now().await;
                assert_eq!(fs::read(layers.dirs()[0].join("a")).unwrap(), b"1");
                assert_eq!(
                    fs::read(layers.dirs()[1].join("base")).unwrap().len(),
                    20_000
                );
                store.write_oci_archive(&image, std::io::sink()).unwrap();
            }
        });
    }
    attempts.join_all().await;
    over.store(true, Ordering::Relaxed);
    let removed = collector.await.unwrap();
    assert!(removed > ROUNDS, "only {removed} things were removed");
}
