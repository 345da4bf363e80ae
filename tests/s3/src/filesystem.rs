//! s3s-fs, with the four things it lacks: entity tags in lists, `NoSuchBucket` for a put, `NoSuchUpload` for an upload
//! that has ended, and a list of those that have not.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetObjectInput,
    GetObjectOutput, HeadBucketInput, HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, MultipartUpload,
    PutObjectInput, PutObjectOutput, StorageClass, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use crate::fault::Conditions;

pub(crate) struct Files {
    system: FileSystem,
    conditions: Conditions,
    /// The keys of uploads that have begun and not ended, by id.
    uploads: Mutex<BTreeMap<String, String>>,
}

impl Files {
    pub(crate) fn new(system: FileSystem, conditions: Conditions) -> Self {
        Self {
            system,
            conditions,
            uploads: Mutex::default(),
        }
    }
}

/// Each of these operations is that of s3s-fs.
macro_rules! handed_on {
    ($($name:ident: $input:ty => $output:ty;)+) => {
        #[async_trait::async_trait]
        impl S3 for Files {
            $(async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.system.$name(req).await
            })+

            async fn put_object(
                &self,
                req: S3Request<PutObjectInput>,
            ) -> S3Result<S3Response<PutObjectOutput>> {
                let input = HeadBucketInput { bucket: req.input.bucket.clone(), ..Default::default() };
                self.system.head_bucket(another(&req, input)).await?;
                let mut req = req;
                let given = req.input.if_match.is_some() || req.input.if_none_match.is_some();
                match self.conditions {
                    Conditions::Obeyed => {}
                    Conditions::Refused if given => return Err(s3_error!(NotImplemented)),
                    Conditions::Ignored | Conditions::Refused => {
                        (req.input.if_match, req.input.if_none_match) = (None, None);
                    }
                }
                self.system.put_object(req).await
            }

            async fn complete_multipart_upload(
                &self,
                req: S3Request<CompleteMultipartUploadInput>,
            ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
                let id = req.input.upload_id.clone();
                let done = self.system.complete_multipart_upload(req).await;
                self.uploads.lock().unwrap().remove(&id);
                done.map_err(|error| match error.code() {
                    S3ErrorCode::AccessDenied => s3_error!(NoSuchUpload),
                    _ => error,
                })
            }

            async fn create_multipart_upload(
                &self,
                req: S3Request<CreateMultipartUploadInput>,
            ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
                let key = req.input.key.clone();
                let begun = self.system.create_multipart_upload(req).await?;
                let id = begun.output.upload_id.clone().unwrap_or_default();
                self.uploads.lock().unwrap().insert(id, key);
                Ok(begun)
            }

            async fn abort_multipart_upload(
                &self,
                req: S3Request<AbortMultipartUploadInput>,
            ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
                let id = req.input.upload_id.clone();
                let given_up = self.system.abort_multipart_upload(req).await?;
                self.uploads.lock().unwrap().remove(&id);
                Ok(given_up)
            }

            async fn list_multipart_uploads(
                &self,
                req: S3Request<ListMultipartUploadsInput>,
            ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
                let ListMultipartUploadsInput { bucket, prefix, .. } = req.input;
                let inside = prefix.clone().unwrap_or_default();
                let uploads = self.uploads.lock().unwrap();
                let uploads = uploads.iter().filter(|(_, key)| key.starts_with(&inside));
                let uploads = uploads.map(|(id, key)| MultipartUpload {
                    key: Some(key.clone()),
                    upload_id: Some(id.clone()),
                    // Clients insist on these.
                    initiated: Some(SystemTime::UNIX_EPOCH.into()),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    ..Default::default()
                });
                Ok(S3Response::new(ListMultipartUploadsOutput {
                    bucket: Some(bucket),
                    prefix,
                    is_truncated: Some(false),
                    uploads: Some(uploads.collect()),
                    ..Default::default()
                }))
            }

            async fn list_objects_v2(
                &self,
                req: S3Request<ListObjectsV2Input>,
            ) -> S3Result<S3Response<ListObjectsV2Output>> {
                let bucket = req.input.bucket.clone();
                let asked = another(&req, ());
                let mut answer = self.system.list_objects_v2(req).await?;
                for object in answer.output.contents.iter_mut().flatten() {
                    let input = HeadObjectInput {
                        bucket: bucket.clone(),
                        key: object.key.clone().unwrap_or_default(),
                        ..Default::default()
                    };
                    object.e_tag = self.system.head_object(another(&asked, input)).await?.output.e_tag;
                }
                Ok(answer)
            }
        }
    };
}

handed_on! {
    get_object: GetObjectInput => GetObjectOutput;
    head_object: HeadObjectInput => HeadObjectOutput;
    delete_object: DeleteObjectInput => DeleteObjectOutput;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput;
    upload_part: UploadPartInput => UploadPartOutput;
}

fn another<A, B>(req: &S3Request<A>, input: B) -> S3Request<B> {
    S3Request {
        input,
        method: req.method.clone(),
        uri: req.uri.clone(),
        headers: req.headers.clone(),
        extensions: Default::default(),
        credentials: req.credentials.clone(),
        region: req.region.clone(),
        service: req.service.clone(),
        trailing_headers: None,
    }
}
