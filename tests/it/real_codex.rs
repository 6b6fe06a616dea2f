//! Where the real Codex is, and a private home for it.
//!
//! Tests that need it begin with `let codex = real_codex_or_skip!("what it proves");`. Without Codex they are skipped
//! in one loud line, or fail when `CODEXD_REQUIRE_CODEX=1` says that it must be there. The home is quiet: every
//! feature that would reach the network is off, and the model server stands in as the proxy to prove it.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::model_server::ModelServer;
use crate::skipped::skipped;

/// An installed Codex.
pub(crate) struct RealCodex {
    wrapper: PathBuf,
    native: PathBuf,
}

impl RealCodex {
    /// The one named by `CODEXD_TEST_CODEX`, else the one `tests/install-codex.sh` made.
    pub(crate) fn find() -> Option<RealCodex> {
        RealCodex::look().ok()
    }

    fn look() -> Result<RealCodex, String> {
        let wrapper = match std::env::var_os("CODEXD_TEST_CODEX") {
            Some(path) => PathBuf::from(path),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/codex/node_modules/.bin/codex"),
        };
        RealCodex::at(wrapper)
    }

    /// The one whose `codex` is that file.
    pub(crate) fn at(wrapper: PathBuf) -> Result<RealCodex, String> {
        if !wrapper.is_file() {
            return Err(format!("no file {}", wrapper.display()));
        }
        let native = native_of(&wrapper)
            .ok_or_else(|| format!("{} has no native binary beside it", wrapper.display()))?;
        Ok(RealCodex { wrapper, native })
    }

    /// A `codex` of which only the one on the PATH is known.
    pub(crate) fn only(wrapper: PathBuf) -> RealCodex {
        RealCodex { native: wrapper.clone(), wrapper }
    }

    /// What `codex` on a PATH is: with npm a node script that starts the native binary.
    pub(crate) fn wrapper(&self) -> &Path {
        &self.wrapper
    }

    /// The binary itself.
    pub(crate) fn native(&self) -> &Path {
        &self.native
    }
}

/// From `…/node_modules/@openai/codex/bin/codex.js` to `…/@openai/codex-PLATFORM/vendor/TRIPLE/bin/codex`; a path that
/// is no script is the native binary already.
fn native_of(wrapper: &Path) -> Option<PathBuf> {
    let script = wrapper.canonicalize().ok()?;
    if script.extension().is_none_or(|extension| extension != "js") {
        return Some(script);
    }
    let below = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let package = script.parent()?.parent()?;
    let mut packages = below(package.parent()?);
    packages.extend(below(&package.join("node_modules/@openai")));
    packages.push(package.to_owned());
    let triples = packages.iter().flat_map(|package| below(&package.join("vendor")));
    // Older packages have the binaries of all platforms.
    let system = if cfg!(target_os = "macos") { "apple-darwin" } else { std::env::consts::OS };
    let ours = |triple: &PathBuf| {
        let name = triple.to_string_lossy();
        name.contains(std::env::consts::ARCH) && name.contains(system)
    };
    let triples = triples.filter(ours);
    // The second is where older versions have it.
    let places = |triple: PathBuf| ["bin/codex", "codex/codex"].map(|place| triple.join(place));
    triples.flat_map(places).find(|binary| binary.is_file())
}

/// Says that a test is skipped, or fails it when it may not be.
pub(crate) fn skip(test: &str) {
    let why = RealCodex::look().err().unwrap_or_default();
    assert!(std::env::var_os("CODEXD_REQUIRE_CODEX").is_none_or(|value| value != "1"), "{test}: {why}");
    skipped(test, &format!("no real Codex: {why}; run tests/install-codex.sh"));
}

/// The real Codex, or the end of the test.
macro_rules! real_codex_or_skip {
    ($test:expr) => {
        match $crate::real_codex::RealCodex::find() {
            Some(codex) => codex,
            None => {
                $crate::real_codex::skip($test);
                return;
            }
        }
    };
}
pub(crate) use real_codex_or_skip;

/// A CODEX_HOME that knows one model provider, the model server; and a folder to work in.
pub(crate) struct CodexHome {
    folder: TempDir,
    proxy: String,
}

/// The model whose tools include apply_patch; an unknown name is not offered it.
pub(crate) const MODEL: &str = "gpt-5.5";

impl CodexHome {
    /// A home for `model`. It lies below target/, as the sandbox lets commands write to /tmp anyway.
    pub(crate) fn new(model: &ModelServer) -> CodexHome {
        CodexHome::with_config(model, "")
    }

    /// The same with more lines of config.toml, tables only.
    pub(crate) fn with_config(model: &ModelServer, more: &str) -> CodexHome {
        let folder = tempfile::Builder::new().prefix("codex-").tempdir_in(outside_of_tmp()).unwrap();
        let proxy = model.url();
        // plugins: clones github.com/openai/plugins and asks chatgpt.com; the two features make `perm:` and `ask:`
        // work in every turn (without them, ask needs plan mode).
        let config = format!(
            "model = \"{MODEL}\"\nmodel_provider = \"mock\"\ncheck_for_update_on_startup = false\n\
             web_search = \"disabled\"\nsuppress_unstable_features_warning = true\n\
             [analytics]\nenabled = false\n\
             [features]\nplugins = false\napps = false\nshell_snapshot = false\n\
             request_permissions_tool = true\ndefault_mode_request_user_input = true\n\
             [model_providers.mock]\nname = \"mock\"\nbase_url = \"{proxy}/v1\"\nwire_api = \"responses\"\n\
             request_max_retries = 0\nstream_max_retries = 0\nrequires_openai_auth = false\n{more}"
        );
        for name in ["home", "work"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut file = std::fs::File::create(folder.path().join("home/config.toml")).unwrap();
        file.write_all(config.as_bytes()).unwrap();
        CodexHome { folder, proxy }
    }

    /// CODEX_HOME itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// An empty folder to work in (no git repository).
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// A path outside the folder to work in, where the sandbox does not let commands write.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The environment for Codex. HOME is private too: no slow shell profile, no skills of the user.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let home = self.path().display().to_string();
        let mut env = vec![("CODEX_HOME".to_owned(), home.clone()), ("HOME".to_owned(), home)];
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            env.push((name.to_owned(), self.proxy.clone()));
            env.push((name.to_ascii_lowercase(), self.proxy.clone()));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            env.push((name.to_owned(), "127.0.0.1,localhost".to_owned()));
        }
        env.push(("RUST_LOG".to_owned(), "warn".to_owned()));
        env
    }
}

/// Where homes live: Codex's sandbox lets commands write in the system's temporary folder, so what is to lie outside of the
/// sandbox must not lie there, even where the whole checkout does.
fn outside_of_tmp() -> &'static Path {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let temporary = target.starts_with("/tmp") || target.starts_with(std::env::temp_dir());
    if temporary { Path::new("/var/tmp") } else { target }
}
