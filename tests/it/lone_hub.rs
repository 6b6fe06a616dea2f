//! A hub of this process, without a daemon around it.

use codexd::config::Config;
use codexd::hub::recover::recover;
use codexd::hub::{Hub, HubThreads};
use codexd::store::files::make_folder;

/// Starts one in the folders of that configuration, as a daemon does.
pub(crate) fn start(config: &Config) -> (Hub, HubThreads) {
    for folder in [&config.paths.logs_dir, &config.paths.state_dir] {
        make_folder(folder).unwrap();
    }
    let recovered = recover(config).unwrap();
    Hub::start(recovered.start, config.paths.clone(), recovered.extras).unwrap()
}
