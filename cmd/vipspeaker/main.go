// Command vipspeaker gives a Linux host virtual IP addresses that outlive its
// network cards: see `vipspeaker help` and the README.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/control"

	"github.com/spf13/cobra"
)

// The exit codes of all commands.
const (
	exitGood  = 0
	exitBad   = 1
	exitUsage = 2
)

const (
	defaultConfig   = "/etc/vipspeaker/vipspeaker.yaml"
	defaultSocket   = "/run/vipspeaker/control.sock"
	defaultStateDir = "/run/vipspeaker"
	defaultDataDir  = "/var/lib/vipspeaker"
)

func main() {
	os.Exit(run(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run executes the command line args, whose first entry is the program's name,
// and returns the exit code. When ctx ends, a daemon stops as on SIGTERM.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot() //nolint:contextcheck // cobra hands the context on
	root.SetArgs(args[1:])
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	strictDefaults(root)
	unwritten := helpWritten(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && *unwritten != nil {
		err = &badEnd{*unwritten}
	}
	if err == nil {
		return exitGood
	}
	if _, ok := errors.AsType[*badEnd](err); ok {
		sayError(stderr, err)
		return exitBad
	}
	_, _ = fmt.Fprintf(stderr, "vipspeaker: %v\nTry '%s --help'.\n", err, cmd.CommandPath())
	return exitUsage
}

// badEnd is what a command returns that was called correctly and had no
// success. All other errors come from the parsing of the command line.
type badEnd struct{ err error } // nil if the command has said it itself

func (b *badEnd) Error() string {
	if b.err == nil {
		return "no success"
	}
	return b.err.Error()
}

func (b *badEnd) Unwrap() error { return b.err }

// does wraps the work of a command, so that its errors are not taken for wrong
// usage.
func does(work func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := work(cmd, args)
		if _, ok := errors.AsType[*badEnd](err); ok || err == nil {
			return err
		}
		return &badEnd{err}
	}
}

// flags are the flags that all commands share.
type flags struct {
	config, socket, stateDir, dataDir string
}

func newRoot() *cobra.Command {
	f := &flags{}
	root := &cobra.Command{
		Use:   "vipspeaker",
		Short: "Virtual IP addresses that outlive the host's network cards",
		Long: `vipspeaker binds virtual IP addresses to a virtual interface, announces them by
BGP over every healthy physical interface, makes them the source of outgoing
traffic that names none, and moves traffic when an interface or a path fails.

Exit codes: 0 good, 1 bad, 2 wrong usage.`,
		Args:          takes(0, 0),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 80"))
	pf := root.PersistentFlags()
	pf.StringVar(&f.config, "config", defaultConfig, "configuration `file`: .yaml, .toml or .json")
	pf.StringVar(&f.socket, "socket", "", "the daemon's control socket `path` (default: control.socket of the configuration, else "+defaultSocket+")")
	pf.StringVar(&f.stateDir, "state-dir", defaultStateDir, "`directory` for the daemon's state; lost at a reboot")
	pf.StringVar(&f.dataDir, "data-dir", defaultDataDir, "`directory` for orders such as drains, which a reboot must not lose")
	root.AddCommand(
		newRunCommand(f), newCheckCommand(f), newStatusCommand(f), newTraceCommand(f), newEventsCommand(f), newReloadCommand(f), newFailbackCommand(f), newMoveCommand(f), newCleanupCommand(f),
		newDrainCommand(f), newUndrainCommand(f), newVIPCommand(f),
		newDoctorCommand(f),
		newVersionCommand(), newDemoCommand(), newDemoStageCommand(), newSpeakerProcessCommand(), newBFDProcessCommand(), newFileCapabilitiesCommand(),
	)
	noFiles(root)
	return root
}

// socketOf is where a daemon with that configuration takes commands, an absolute
// path.
func (f *flags) socketOf(cfg *config.Config) (string, error) {
	socket := f.socket
	if socket == "" {
		socket = cfg.Control.Socket
	}
	socket, err := filepath.Abs(socket)
	if err != nil {
		return "", fmt.Errorf("control socket: %w", err)
	}
	return socket, nil
}

// client returns a client for the daemon's socket: the one of the flag, else
// the one that the configuration names, else the default. A configuration that
// cannot be read is no error here, because members of the daemon's group may
// ask for its status without having access to the file.
func (f *flags) client() *control.Client {
	path := f.socket
	if path == "" {
		path = defaultSocket
		if cfg, err := config.Load(f.config); err == nil {
			path = cfg.Control.Socket
		}
	}
	return control.NewClient(path)
}
