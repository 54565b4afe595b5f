//! Bars per day, drawn on the server: an SVG with its summary in words, and the same numbers as a table.

use leptos::prelude::*;
use model::money::grouped;

const WIDTH: f64 = 1040.0;
/// Width of a chart of few bars, which is not drawn larger than that, so that its words stay readable on a telephone.
const SHORT_WIDTH: f64 = 520.0;
const HEIGHT: f64 = 260.0;
/// Where the plot begins and ends, inside room for the labels.
const LEFT: f64 = 52.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 236.0;
/// Horizontal lines above zero.
const STEPS: u64 = 4;
/// Widest bar: a chart of one day is still a chart.
const MAX_BAR: f64 = 56.0;
/// So many bars fit on a telephone; of more, it shows a part and scrolls.
const FEW_BARS: usize = 12;
/// Labels under the axis, at most.
const X_LABELS: usize = 8;

/// What a chart shows.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What is counted and when, such as `Calls per day, 1 to 30 November`.
    pub title: String,
    /// Name of each bar.
    pub labels: Vec<String>,
    /// Name and values of each series, stacked in this order.
    pub series: Vec<(String, Vec<u64>)>,
}

impl Bars {
    fn column_total(&self, index: usize) -> u64 {
        self.series.iter().filter_map(|(_, values)| values.get(index)).sum()
    }
    fn highest(&self) -> (usize, u64) {
        let totals = (0..self.labels.len()).map(|i| (i, self.column_total(i)));
        totals
            .max_by_key(|(i, total)| (*total, usize::MAX - i))
            .unwrap_or((0, 0))
    }
    /// Title, total and highest bar in a sentence.
    fn summary(&self) -> String {
        let total: u64 = (0..self.labels.len()).map(|i| self.column_total(i)).sum();
        let (index, most) = self.highest();
        let label = self.labels.get(index).map_or("", String::as_str);
        format!(
            "{}. Total {}; most on {label}: {}.",
            self.title,
            grouped(total),
            grouped(most)
        )
    }
}

/// The chart with its legend and its table twin. `id` makes the addresses in it unique on the page.
pub fn bars(id: &'static str, chart: &Bars) -> impl IntoView + use<> {
    let legend: Vec<_> = chart
        .series
        .iter()
        .enumerate()
        .map(|(i, (name, _))| view! { <span><i class=series_class(i)></i>{name.clone()}</span> })
        .collect();
    view! {
        <div class="legend">{legend}</div>
        <div class="chart-wrap" data-long=is_long(chart).then_some("") tabindex="0" role="group" aria-label=chart.title.clone()>{plot(id, chart)}</div>
        <details>
            <summary>"Show as table"</summary>
            {table(chart)}
        </details>
    }
}

fn is_long(chart: &Bars) -> bool {
    chart.labels.len() > FEW_BARS
}

fn series_class(index: usize) -> String {
    format!("s{}", index % 6 + 1)
}

fn plot(id: &'static str, chart: &Bars) -> impl IntoView + use<> {
    let full = if is_long(chart) { WIDTH } else { SHORT_WIDTH };
    let step = nice_step(chart.highest().1);
    let top = step * STEPS;
    let y = |value: u64| BOTTOM - (BOTTOM - TOP) * share(value, top);
    let grid: Vec<_> = (0..=STEPS)
        .map(|n| {
            let at = y(n * step);
            view! {
                <line class="grid" x1=px(LEFT - 8.0) x2=px(full) y1=px(at) y2=px(at) />
                <text x=px(LEFT - 14.0) y=px(at + 4.0) text-anchor="end">{grouped(n * step)}</text>
            }
        })
        .collect();
    let count = chart.labels.len().max(1);
    let slot = (full - LEFT) / count_f64(count);
    let every = count.div_ceil(X_LABELS);
    let width = (slot * 0.82).min(MAX_BAR);
    let columns: Vec<_> = (0..chart.labels.len())
        .map(|i| {
            let x = LEFT + slot * count_f64(i);
            let label = chart.labels.get(i).cloned().unwrap_or_default();
            let mut below = 0;
            let rects: Vec<_> = chart
                .series
                .iter()
                .enumerate()
                .filter_map(|(s, (name, values))| {
                    let value = values.get(i).copied().filter(|v| *v > 0)?;
                    let (low, high) = (y(below), y(below + value));
                    below += value;
                    let words = format!("{label}, {name}: {}", grouped(value));
                    Some(view! {
                        <rect class=series_class(s) x=px(x + (slot - width) / 2.0) y=px(high) width=px(width)
                            height=px((low - high).max(0.5)) rx="2"><title>{words}</title></rect>
                    })
                })
                .collect();
            let text = i.is_multiple_of(every).then(|| {
                view! { <text x=px(x + slot / 2.0) y=px(HEIGHT - 6.0) text-anchor="middle">{label.clone()}</text> }
            });
            view! { {rects} {text} }
        })
        .collect();
    let title_id = format!("{id}-title");
    view! {
        <svg class="chart" viewBox=format!("0 0 {full} {HEIGHT}") role="img" aria-labelledby=title_id.clone()>
            <title id=title_id.clone()>{chart.summary()}</title>
            {grid} {columns}
        </svg>
    }
}

fn table(chart: &Bars) -> impl IntoView + use<> {
    let heads: Vec<_> = chart
        .series
        .iter()
        .map(|(name, _)| view! { <th scope="col" class="num">{name.clone()}</th> })
        .collect();
    // The newest day first, and days without calls left out: a table is read from the top.
    let rows: Vec<_> = (0..chart.labels.len())
        .rev()
        .filter(|i| chart.column_total(*i) > 0)
        .map(|i| {
            let cells: Vec<_> = chart
                .series
                .iter()
                .map(|(_, values)| view! { <td class="num">{grouped(values.get(i).copied().unwrap_or(0))}</td> })
                .collect();
            view! {
                <tr>
                    <th scope="row">{chart.labels.get(i).cloned().unwrap_or_default()}</th>
                    {cells}
                    <td class="num">{grouped(chart.column_total(i))}</td>
                </tr>
            }
        })
        .collect();
    view! {
        <div class="table-wrap" tabindex="0" role="group" aria-label=format!("{} as a table", chart.title)>
            <table>
                <thead><tr><th scope="col">"Day"</th>{heads}<th scope="col" class="num">"All"</th></tr></thead>
                <tbody>{rows}</tbody>
            </table>
        </div>
    }
}

/// A step of 1, 2 or 5 times a power of ten, so that [`STEPS`] of them reach the highest bar.
fn nice_step(highest: u64) -> u64 {
    let mut power = 1u64;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            if step.saturating_mul(STEPS) >= highest {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn share(value: u64, of: u64) -> f64 {
    // Counts of calls are far below 2^53, where a float begins to skip numbers.
    value as f64 / of.max(1) as f64
}

fn count_f64(count: usize) -> f64 {
    count as f64
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach_the_highest() {
        for (highest, step) in [
            (0, 1),
            (4, 1),
            (5, 2),
            (20, 5),
            (21, 10),
            (2_402, 1_000),
            (u64::MAX / 8, 500_000_000_000_000_000),
        ] {
            assert!(nice_step(highest) * STEPS >= highest);
            if highest < 1_000_000 {
                assert_eq!(nice_step(highest), step, "{highest}");
            }
        }
    }

    #[test]
    fn the_table_says_what_the_picture_shows() {
        let chart = Bars {
            title: "Calls per day".to_owned(),
            labels: vec!["1 Nov".to_owned(), "2 Nov".to_owned()],
            series: vec![
                ("countries".to_owned(), vec![3, 1_200]),
                ("time".to_owned(), vec![0, 34]),
            ],
        };
        let html = bars("calls", &chart).to_html();
        assert!(html.contains("Total 1,237; most on 2 Nov: 1,234."), "{html}");
        assert_eq!(html.matches("<rect").count(), 3);
        assert!(html.contains(">1,234</td>"));
        assert!(!html.contains("style="));
    }
}
