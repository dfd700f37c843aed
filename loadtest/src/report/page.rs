//! What every page has around its content.

use super::chart::escape;

const STYLE: &str = include_str!("page.css");

/// A whole page that needs nothing but itself.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A table whose first column, and that named `words`, are words; the others are numbers.
pub fn table(head: &[&str], words: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let class = |name: &str| if name == words { " class=\"words\"" } else { "" };
    let mut html = String::from("<div class=\"scroll\"><table><tr>");
    for name in head {
        html.push_str(&format!("<th{}>{}</th>", class(name), escape(name)));
    }
    html.push_str("</tr>");
    for row in rows {
        html.push_str("<tr>");
        for (cell, name) in row.iter().zip(head) {
            html.push_str(&format!("<td{}>{}</td>", class(name), escape(cell)));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>\n");
    html
}

/// A few figures that come first; those marked are bad.
pub fn tiles(tiles: &[(&str, String, bool)]) -> String {
    let mut html = String::from("<div class=\"tiles\">");
    for (name, value, is_bad) in tiles {
        let class = if *is_bad { " class=\"bad\"" } else { "" };
        html.push_str(&format!(
            "<div class=\"tile\"><b{class}>{}</b><span class=\"quiet\">{}</span></div>",
            escape(value),
            escape(name)
        ));
    }
    html.push_str("</div>\n");
    html
}
