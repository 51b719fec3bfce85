//! The real program, run against directories of its own.
#![allow(dead_code, reason = "each test crate uses some of it")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub struct Run {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// A datastore of its own, and the program run in it.
pub struct Lab {
    pub dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        let lab = Lab { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(lab.store()).unwrap();
        lab
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, "")
    }

    pub fn run_with(&self, args: &[&str], stdin: &str) -> Run {
        let mut child = Command::new(env!("CARGO_BIN_EXE_manxctl"))
            .args(args)
            .env_clear()
            .env("MANX_BPF_DIR", self.dir.path().join("bpf"))
            .env("MANX_DATASTORE", format!("dir:{}", self.store().display()))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program need not read what it is not asked to read.
        let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(&self.dir.path().display().to_string(), "DIR")
        };
        Run { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code().unwrap() }
    }

    /// The output of a command that must go well and say nothing on stderr.
    pub fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{args:?}: {}", run.stdout);
        run.stdout
    }

    /// The same of a change that cuts nodes off, as `--yes` says that it may.
    pub fn agreed(&self, args: &[&str]) -> String {
        let run = self.run(&[args, &["--yes"]].concat());
        assert_eq!(run.code, 0, "{args:?}: {}{}", run.stdout, run.stderr);
        run.stdout
    }

    /// The complaints of a command that must end in this code.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, code, "{args:?}: {}{}", run.stdout, run.stderr);
        run.stderr
    }
}

pub fn seed(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/seed").join(name).display().to_string()
}

pub fn cluster() -> Lab {
    let lab = Lab::new();
    lab.ok(&["apply", "-f", &seed("1-cluster.yaml")]);
    lab
}
