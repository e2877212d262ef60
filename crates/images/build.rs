//! Compiles the programs in `images/` as static binaries, so that the library can embed them.
//!
//! They go through `rustc` directly and not through cargo: a build script that calls cargo would wait for the lock
//! that its own build holds. So each program must be free of dependencies.

use std::{
    env,
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

const FLAGS: [&str; 9] = [
    "--edition=2024",
    "--crate-type=bin",
    "-Copt-level=s",
    "-Ctarget-feature=+crt-static",
    // A fixed address needs no relocation at start: the kernel maps the program and it runs.
    "-Crelocation-model=static",
    "-Cpanic=abort",
    "-Cstrip=symbols",
    // The same source must give the same bytes, or image digests would differ: one unit, a fixed crate id.
    "-Ccodegen-units=1",
    "-Cmetadata=hitless",
];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let images = here.join("../../images").canonicalize()?;
    for name in ["pause", "web"] {
        let sources = images.join(name).join("src");
        // Relative to the package: a target directory may serve several checkouts.
        println!("cargo:rerun-if-changed=../../images/{name}/src");
        compile(name, &sources, &out)?;
    }
    Ok(())
}

fn compile(name: &str, sources: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut remap = OsString::from("--remap-path-prefix=");
    remap.push(sources);
    remap.push("=");
    remap.push(name);
    let done = Command::new(variable("RUSTC")?)
        .args(FLAGS)
        .arg(remap)
        .arg("--target")
        .arg(variable("TARGET")?)
        .arg("--crate-name")
        .arg(name)
        .arg("-o")
        .arg(out.join(name))
        .arg(sources.join("main.rs"))
        .output()?;
    let messages = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(format!("images/{name} does not compile ({}):\n{messages}", done.status).into());
    }
    for line in messages.lines().filter(|line| line.starts_with("warning")) {
        println!("cargo:warning=images/{name}: {line}");
    }
    Ok(())
}

fn variable(name: &str) -> Result<OsString, Box<dyn Error>> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}").into())
}
