//! Pure. The flags of a command as rows of a table: flag, environment variable, default. The tests of the programs
//! include this file too.

/// The flags, sorted, without those that are hidden.
pub(crate) fn flags(command: &clap::Command) -> Vec<Vec<String>> {
    let shown = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let mut rows: Vec<_> = shown.filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())).map(row).collect();
    rows.sort();
    rows
}

fn row(arg: &clap::Arg) -> Vec<String> {
    let (short, long) = (arg.get_short().map(|c| format!("-{c}")), arg.get_long().map(|name| format!("--{name}")));
    let names: Vec<String> = [short, long].into_iter().flatten().collect();
    let mut flag = names.join(", ");
    if arg.get_action().takes_values() {
        let possible: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let named = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string);
        let value = if possible.is_empty() { named.collect::<Vec<_>>().join(" ") } else { possible.join("|") };
        flag = format!("{flag} {value}");
    }
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
    let default = if arg.get_action().takes_values() { defaults.collect::<Vec<_>>().join(",") } else { String::new() };
    let env = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    [flag, env, default].map(|text| if text.is_empty() { text } else { format!("`{text}`") }).to_vec()
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};

    use super::*;

    #[test]
    fn a_flag_is_shown_with_what_it_takes() {
        let command = clap::Command::new("x")
            .arg(Arg::new("what"))
            .arg(Arg::new("output").short('o').long("output").value_parser(["text", "json"]).default_value("text"))
            .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue))
            .arg(Arg::new("secret").long("secret").hide(true));
        assert_eq!(flags(&command), [["`--quiet`", "", ""], ["`-o, --output text|json`", "", "`text`"]]);
    }
}
