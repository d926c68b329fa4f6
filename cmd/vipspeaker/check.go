package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"vipspeaker/pkg/config"

	"github.com/spf13/cobra"
)

// checkResult is what `check -o json` prints.
type checkResult struct {
	OK     bool         `json:"ok"`
	File   string       `json:"file"`
	Errors []checkError `json:"errors"`
	// Notes are what cannot work on this host as it is now. They are no errors.
	Notes []checkError `json:"notes"`
}

// checkError is one mistake in the configuration.
type checkError struct {
	Path    string `json:"path"`
	Line    int    `json:"line,omitempty"`
	Value   string `json:"value,omitempty"`
	Problem string `json:"problem"`
}

func newCheckCommand(f *flags) *cobra.Command {
	var o output
	var state bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Validate the configuration file; touches nothing",
		Long: `Validate the configuration file and print every mistake in it, one line each.
Nothing on the host is touched and the daemon is not asked. What is right but
cannot work on this host as it is now, such as an IPv6 peer on an interface that
has IPv4 addresses only, is noted on stderr and changes no exit code.
FILE is the same as --config FILE.

With --state it also tells whether this version understands what a daemon of
another one left in the directories of --state-dir and --data-dir, or works with
there now: whether it can take over from that one. It takes who may read them.
Where nothing is left, that is noted.`,
		Args: takes(0, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			path := f.config
			if len(args) > 0 {
				path = args[0]
			}
			return check(cmd, f, path, o, state)
		}),
	}
	addOutputFlag(cmd, &o)
	cmd.Flags().BoolVar(&state, "state", false, "also check what a daemon left on disk")
	return cmd
}

func check(cmd *cobra.Command, f *flags, path string, o output, state bool) error {
	cfg, err := config.Load(path)
	if err == nil && state {
		err = readable(f)
	}
	notes := []checkError{}
	if err == nil {
		notes = append(notes, hostNotes(cfg)...)
		notes = append(notes, ownerNotes(cfg)...)
		if state {
			notes = append(notes, stateNotes(f)...)
		}
	}
	if o == asJSON {
		if printErr := printJSON(cmd.OutOrStdout(), newCheckResult(path, err, notes)); printErr != nil {
			return printErr
		}
	} else if err == nil {
		for _, n := range notes {
			if _, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: note: %s: %s: %s\n", path, n.Path, n.Value, n.Problem); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %s, %s\n", path, count(len(cfg.Interfaces), "interface"), count(len(cfg.VIPs), "VIP"))
		return err
	} else if _, printErr := fmt.Fprintln(cmd.OutOrStdout(), err); printErr != nil {
		return printErr
	}
	if err != nil {
		return &badEnd{} // the mistakes are printed
	}
	return nil
}

// stateNotes tells which directories hold nothing that could be understood or not:
// that is no proof that the next version does.
func stateNotes(f *flags) []checkError {
	var notes []checkError
	add := func(flag, dir, problem string) {
		notes = append(notes, checkError{Path: flag, Value: dir, Problem: problem})
	}
	if _, err := os.Stat(f.stateDir); errors.Is(err, fs.ErrNotExist) {
		add("--state-dir", f.stateDir, "does not exist: no daemon has used it since the boot; if one runs, give its own")
	} else if _, err = os.Stat(filepath.Join(f.stateDir, lockName)); errors.Is(err, fs.ErrNotExist) {
		add("--state-dir", f.stateDir, "no daemon has used it; if one runs, give its own")
	}
	if info, err := os.Stat(f.dataDir); errors.Is(err, fs.ErrNotExist) {
		add("--data-dir", f.dataDir, "does not exist: no orders are kept in it")
	} else if err == nil && !info.IsDir() {
		add("--data-dir", f.dataDir, "is no directory: no orders can be kept in it")
	}
	return notes
}

func newCheckResult(path string, err error, notes []checkError) checkResult {
	r := checkResult{OK: err == nil, File: path, Errors: []checkError{}, Notes: notes}
	mistakes, ok := errors.AsType[*config.Errors](err)
	switch {
	case ok:
		for _, m := range mistakes.List {
			r.Errors = append(r.Errors, checkError{m.Path, m.Line, m.Value, m.Problem})
		}
	case err != nil:
		r.Errors = append(r.Errors, checkError{Problem: err.Error()})
	}
	return r
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
