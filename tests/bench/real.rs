//! The real Codex streaming: how much later a delta comes through codexd than to a client of its own.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::child::now_nanos;
use super::clients::{DEADLINE, open_stream};
use super::daemon::Daemon;
use super::model_server::ModelServer;
use super::real_codex::{CodexHome, RealCodex};
use super::report::{Better, Report};
use super::scenarios::percentile;

const DELTAS: u32 = 1_500;
const PER_SECOND: u32 = 300;

/// Through codexd and directly, in turn; the reference is the direct client.
pub fn latency_of_the_real_stream(report: &mut Report) {
    let Some(codex) = RealCodex::find() else {
        eprintln!("SKIPPED real-stream: no real Codex (run tests/install-codex.sh)");
        return;
    };
    let model = ModelServer::start(DELTAS, PER_SECOND);
    for _ in 0..report.repeats {
        let (home, other_home) = (CodexHome::new(&model), CodexHome::new(&model));
        let (mut through, mut direct) = (through_codexd(&codex, &home), direct(&codex, &other_home));
        for (what, share) in [("p50", 0.50), ("p99", 0.99)] {
            let name = format!("real Codex at {PER_SECOND}/s, model to client, {what}");
            let (codexd, alone) = (percentile(&mut through, share), percentile(&mut direct, share));
            report.add(&name, "ms", Better::Less, None, codexd);
            report.add_reference(&name, alone);
            let name = format!("real Codex at {PER_SECOND}/s, later than directly, {what}");
            report.add(&name, "ms", Better::Less, (what == "p99").then_some(0.3), codexd - alone);
        }
    }
}

fn through_codexd(codex: &RealCodex, home: &CodexHome) -> Vec<u64> {
    let daemon = Daemon::start_codex(codex.native(), &home.env(), &home.work());
    let session = daemon.session();
    let reader = open_stream(daemon.address).count_deltas(DELTAS as usize, true);
    daemon.turn(&session, "go");
    reader.join().unwrap().1
}

/// A client of `codex app-server --listen`, as an editor would be one.
fn direct(codex: &RealCodex, home: &CodexHome) -> Vec<u64> {
    let mut server = Command::new(codex.native())
        .args(["app-server", "--listen", "ws://127.0.0.1:0"])
        .envs(home.env())
        .current_dir(home.work())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let authority = lines.find_map(|line| {
        line.unwrap().split_once("listening on: ws://").map(|(_, authority)| authority.trim().to_owned())
    });
    let authority = authority.expect("it says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    let socket = TcpStream::connect(&authority).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut socket, _) = tungstenite::client(format!("ws://{authority}"), socket).unwrap();
    let client = json!({ "clientInfo": { "name": "bench", "title": null, "version": "1" } });
    ask(&mut socket, 1, "initialize", &client);
    socket.send(Message::text(json!({ "method": "initialized" }).to_string())).unwrap();
    let thread = ask(&mut socket, 2, "thread/start", &json!({}))["thread"]["id"].clone();
    let input = json!([{ "type": "text", "text": "go", "text_elements": [] }]);
    let turn = json!({ "id": 3, "method": "turn/start", "params": { "threadId": thread, "input": input } });
    socket.send(Message::text(turn.to_string())).unwrap();
    let mut ages = Vec::new();
    while ages.len() < DELTAS as usize {
        let Message::Text(text) = socket.read().unwrap() else { continue };
        let arrived = now_nanos();
        if !text.contains("item/agentMessage/delta") {
            continue;
        }
        let message: Value = serde_json::from_str(&text).unwrap();
        let made: u64 = message["params"]["delta"].as_str().unwrap().trim().parse().unwrap();
        ages.push(arrived.saturating_sub(made));
    }
    server.kill().unwrap();
    server.wait().unwrap();
    ages
}

/// A request and its answer; what comes before that is passed over.
fn ask(socket: &mut WebSocket<TcpStream>, id: u64, method: &str, params: &Value) -> Value {
    let request = json!({ "id": id, "method": method, "params": params });
    socket.send(Message::text(request.to_string())).unwrap();
    loop {
        let Message::Text(text) = socket.read().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["id"] == id {
            assert!(message["error"].is_null(), "{message}");
            return message["result"].clone();
        }
    }
}
