//! s3s-fs, with the three things it lacks: entity tags in lists, `NoSuchBucket` for a put, and `NoSuchUpload` for an
//! upload that has ended.

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetObjectInput,
    GetObjectOutput, HeadBucketInput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input,
    ListObjectsV2Output, PutObjectInput, PutObjectOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use crate::fault::Conditions;

pub(crate) struct Files {
    pub(crate) system: FileSystem,
    pub(crate) conditions: Conditions,
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
                self.system.complete_multipart_upload(req).await.map_err(|error| match error.code() {
                    S3ErrorCode::AccessDenied => s3_error!(NoSuchUpload),
                    _ => error,
                })
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
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput;
    upload_part: UploadPartInput => UploadPartOutput;
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput;
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
