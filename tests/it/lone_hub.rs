//! A hub of this process, without a daemon around it.

use std::sync::Arc;

use codexd::app_server::client::{Client, Introduction};
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

/// A client of its app-server, which there is not yet.
pub(crate) fn client(hub: &Hub, config: &Config) -> Arc<Client> {
    let introduction = Introduction {
        version: "0".to_owned(),
        endpoint: config.server.endpoint.clone(),
        timeout: config.server.call_timeout,
    };
    Arc::new(Client::new(hub.clone(), introduction))
}
