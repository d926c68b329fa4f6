package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"vipspeaker/pkg/status"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// output is the form in which a command prints, the value of its flag -o.
type output string

const (
	asTable output = "table"
	asJSON  output = "json"
)

// addOutputFlag gives a command the flag -o.
func addOutputFlag(cmd *cobra.Command, o *output) {
	*o = asTable
	cmd.Flags().VarP(o, "output", "o", "output `form`: table or json")
	err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{string(asTable), string(asJSON)}, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag was added above
	}
}

// String implements pflag.Value.
func (o *output) String() string { return string(*o) }

// Type implements pflag.Value.
func (*output) Type() string { return "form" }

// Set implements pflag.Value.
func (o *output) Set(s string) error {
	switch output(s) {
	case asTable, asJSON:
		*o = output(s)
		return nil
	}
	return errors.New("want table or json")
}

// isTerminal tells whether w shows its text on a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// columnsOf returns the width of the terminal that w is, 0 if it is none.
func columnsOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// styleOf returns the style for text on w: marks and colours only on a
// terminal, marks only where the locale is UTF-8, colours unless NO_COLOR is set
// (https://no-color.org) or the terminal is dumb. Its lines fit the terminal.
func styleOf(w io.Writer, getenv func(string) string) status.Style {
	if !isTerminal(w) {
		return status.Style{}
	}
	s := terminalStyle(getenv)
	s.Columns = columnsOf(w)
	return s
}

func terminalStyle(getenv func(string) string) status.Style {
	locale := ""
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} { // the order of locale(7)
		if locale = getenv(name); locale != "" {
			break
		}
	}
	locale = strings.ReplaceAll(strings.ToLower(locale), "-", "")
	return status.Style{
		Marks:  strings.Contains(locale, "utf8"),
		Colour: getenv("NO_COLOR") == "" && getenv("TERM") != "dumb" && getenv("TERM") != "",
	}
}

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	if err := status.WriteJSON(w, v); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
