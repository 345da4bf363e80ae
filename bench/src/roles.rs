//! The roles that `bryo` plays for itself: what starts attempts has to play them, for it is started anew inside namespaces.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use bryo_sandbox::Role;

const UNPACK_LAYER: &str = "__unpack-layer";

/// Plays the role that the first argument names, if it names one.
pub(crate) fn play() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let name = args.next()?;
    let rest: Vec<OsString> = args.collect();
    let result = if name == UNPACK_LAYER {
        bryo_image::unpack_layer_main(&rest).map_err(|e| e.to_string())
    } else {
        bryo_sandbox::role_main(Role::of(&name)?, &rest)
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    })
}
