//! Figures, their table and their JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

/// A ratio that is worse than the committed one by more than this fails the check.
const TOLERANCE: f64 = 0.25;

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

struct Row {
    name: String,
    unit: &'static str,
    better: Better,
    target: Option<f64>,
    /// What is asked for as a share of the reference.
    share: Option<f64>,
    values: Vec<f64>,
    /// The reference measured in the same run, if there is one.
    reference: Vec<f64>,
}

pub struct Report {
    pub repeats: usize,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(repeats: usize) -> Self {
        Self { repeats, rows: Vec::new() }
    }

    /// Adds a figure; the same name again is a further repeat.
    pub fn add(&mut self, name: &str, unit: &'static str, better: Better, target: Option<f64>, value: f64) {
        self.row(name, unit, better, target).values.push(value);
    }

    /// Adds what the reference did at the same task.
    pub fn add_reference(&mut self, name: &str, value: f64) {
        self.measured(name).reference.push(value);
    }

    /// As [`Report::add_reference`], where the figure is to be so much of it; each repeat is compared with its own.
    pub fn add_yardstick(&mut self, name: &str, value: f64, share: f64) {
        self.add_reference(name, value);
        self.measured(name).share = Some(share);
    }

    fn measured(&mut self, name: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.name == name).expect("the figure comes first")
    }

    fn row(&mut self, name: &str, unit: &'static str, better: Better, target: Option<f64>) -> &mut Row {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let row = Row {
                name: name.to_owned(),
                unit,
                better,
                target,
                share: None,
                values: Vec::new(),
                reference: Vec::new(),
            };
            self.rows.push(row);
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    pub fn print(&self) {
        println!("| figure | median | min–max | target | bare relay | of it |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            let (low, high) = (min(&row.values), max(&row.values));
            let target = match (row.share, row.target) {
                (Some(share), _) => {
                    let met = row.ratio().is_some_and(|ratio| ratio >= share);
                    format!("{share} of it {}", mark(met))
                }
                (None, Some(target)) => {
                    let met = match row.better {
                        Better::More => median(&row.values) >= target,
                        Better::Less => median(&row.values) <= target,
                    };
                    format!("{} {}", shown(target), mark(met))
                }
                (None, None) => String::new(),
            };
            let share = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let relay = match row.reference.is_empty() {
                true => String::new(),
                false => shown(median(&row.reference)),
            };
            println!(
                "| {} | {} {} | {}–{} | {target} | {relay} | {share} |",
                row.name,
                shown(median(&row.values)),
                row.unit,
                shown(low),
                shown(high)
            );
        }
    }

    pub fn write(&self, path: &Path) {
        let rows: BTreeMap<&str, Value> = self
            .rows
            .iter()
            .map(|row| {
                let figure = json!({
                    "unit": row.unit, "median": median(&row.values), "values": row.values,
                    "target": row.target, "share": row.share, "reference": row.reference, "ratio": row.ratio(),
                });
                (row.name.as_str(), figure)
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows).unwrap();
        std::fs::write(path, text + "\n").unwrap();
    }

    /// Compares the ratios to the reference with the committed ones; those of tails are noise of more than the tolerance.
    pub fn check(&self, baseline: &Path) -> bool {
        let text = std::fs::read_to_string(baseline).expect("tests/bench/baseline.json");
        let baseline: Value = serde_json::from_str(&text).unwrap();
        let mut good = true;
        for row in self.rows.iter().filter(|row| !row.name.ends_with("p99")) {
            let (Some(now), Some(before)) = (row.ratio(), baseline[&row.name]["ratio"].as_f64()) else {
                continue;
            };
            let worse = match row.better {
                Better::More => 1.0 - now / before,
                Better::Less => now / before - 1.0,
            };
            if worse > TOLERANCE {
                eprintln!("{}: {now:.3} of the bare relay, {before:.3} before", row.name);
                good = false;
            }
        }
        good
    }
}

/// In the table.
fn mark(met: bool) -> &'static str {
    if met { "✓" } else { "✗" }
}

impl Row {
    /// The median of value to reference, each pair measured one right after the other: what else the machine does
    /// falls on both.
    fn ratio(&self) -> Option<f64> {
        let pairs: Vec<f64> =
            self.values.iter().zip(&self.reference).map(|(value, other)| value / other).collect();
        (!pairs.is_empty()).then(|| median(&pairs))
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 {
                    grouped.push(' ');
                }
                grouped.push(digit);
            }
            grouped
        }
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
