//! Images made by hand: honest ones and others.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::digest::Digest;
use crate::image::Compression;

/// A layer's tar stream.
pub(super) struct TestLayer {
    tar: tar::Builder<Vec<u8>>,
}

impl TestLayer {
    pub(super) fn new() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
        }
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.entry(
            name.as_bytes(),
            EntryType::Regular,
            0o644,
            b"",
            content.as_bytes(),
        )
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(name.as_bytes(), EntryType::Directory, 0o755, b"", b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(
            name.as_bytes(),
            EntryType::Symlink,
            0o777,
            target.as_bytes(),
            b"",
        )
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(
            name.as_bytes(),
            EntryType::Link,
            0o644,
            target.as_bytes(),
            b"",
        )
    }

    /// An entry with whatever name: the tar crate itself would refuse some of them.
    pub(super) fn entry(
        mut self,
        name: &[u8],
        kind: EntryType,
        mode: u32,
        link: &[u8],
        content: &[u8],
    ) -> Self {
        let mut header = header(name, kind, mode, link, content.len() as u64);
        header.set_cksum();
        self.tar.append(&header, content).unwrap();
        self
    }

    /// An entry made by the caller.
    pub(super) fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.tar.append(header, content).unwrap();
        self
    }

    pub(super) fn pax(mut self, fields: &[(&str, &[u8])]) -> Self {
        self.tar
            .append_pax_extensions(fields.iter().copied())
            .unwrap();
        self
    }

    /// A file whose name is too long for a plain header.
    pub(super) fn long(mut self, name: &str, content: &str) -> Self {
        let mut header = header(b"", EntryType::Regular, 0o644, b"", content.len() as u64);
        self.tar
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }
}

pub(super) fn header(name: &[u8], kind: EntryType, mode: u32, link: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// An image and all its documents.
pub(super) struct TestImage {
    layers: Vec<Vec<u8>>,
    pub(super) compression: Compression,
    pub(super) architecture: String,
    pub(super) config: Value,
}

impl TestImage {
    pub(super) fn new(layers: Vec<TestLayer>) -> Self {
        Self::of_streams(layers.into_iter().map(TestLayer::bytes).collect())
    }

    pub(super) fn of_streams(layers: Vec<Vec<u8>>) -> Self {
        Self {
            layers,
            compression: Compression::Gzip,
            architecture: crate::platform::architecture().to_string(),
            config: json!({"Entrypoint": ["/bin/sh"], "Env": ["A=1"], "User": "build"}),
        }
    }

    pub(super) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<_> = self
            .layers
            .iter()
            .map(|l| Digest::of(l).to_string())
            .collect();
        json!({
            "os": "linux",
            "architecture": self.architecture,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    pub(super) fn blobs(&self) -> Vec<Vec<u8>> {
        let pack = |layer: &Vec<u8>| compress(self.compression, layer);
        self.layers.iter().map(pack).collect()
    }

    pub(super) fn manifest(&self) -> Vec<u8> {
        let descriptor = |kind: &str, bytes: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": Digest::of(bytes).to_string(),
                "size": bytes.len(),
            })
        };
        let kind = format!("layer.v1.{}", self.compression.word());
        let layers: Vec<_> = self.blobs().iter().map(|b| descriptor(&kind, b)).collect();
        json!({
            "schemaVersion": 2,
            "config": descriptor("config.v1+json", &self.config()),
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    /// The files of an OCI layout, the index last: the order is free, and this one is the hardest.
    pub(super) fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let manifest = self.manifest();
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(&manifest).to_string(),
                "size": manifest.len(),
            }],
        });
        let mut files: Vec<_> = self.blobs().into_iter().map(named).collect();
        files.push(named(self.config()));
        files.push(named(manifest));
        files.push((
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ));
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        files
    }

    pub(super) fn write_oci_archive(&self, path: &Path) {
        write_archive(path, &self.layout());
    }

    pub(super) fn write_layout(&self, dir: &Path) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (name, bytes) in self.layout() {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

/// A blob with its name in a layout.
pub(super) fn named(bytes: Vec<u8>) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", Digest::of(&bytes).hex()), bytes)
}

pub(super) fn write_archive(path: &Path, files: &[(String, Vec<u8>)]) {
    fs::write(path, archive(files)).unwrap();
    settle(path);
}

pub(super) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

/// Waits until the file's times are old enough to tell a later change.
pub(super) fn settle(path: &Path) {
    let state = fs::metadata(path).unwrap();
    while !crate::record::is_settled(&state, std::time::SystemTime::now()) {
        std::thread::yield_now();
    }
}

pub(super) fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let fast = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), fast);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}
