package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"vipspeaker/internal/privilege"
	"vipspeaker/pkg/config"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// The values of shutdown.mode.
const (
	modeDrain   = "drain"
	modeRestart = "restart"
)

func newRunCommand(f *flags) *cobra.Command {
	var replaces bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Be the daemon, in the foreground",
		Long: `Be the daemon, in the foreground. It logs to standard error and tells systemd
when it is ready (Type=notify).

SIGHUP          read the configuration file again; a bad one is refused
SIGTERM, SIGINT stop as shutdown.mode says: drain takes the sources off,
                withdraws everywhere, waits, ends the sessions and removes what
                is ours from the kernel; restart leaves all of it for the next
                process, and routers keep the routes by graceful restart
a second one    end at once with exit code 1; 'vipspeaker cleanup' then removes
                what is left in the kernel

With --replace it takes over from a vipspeaker that runs in this network
namespace with the same state directory, such as one of another version. First
it makes sure that it can: a bad configuration, or files of a version that it
does not know, leave that one as it is. Then it has that one end as with
shutdown.mode restart, and routers keep the routes by graceful restart.
Without graceful restart that one withdraws first. Where none runs it just
starts. A daemon of systemd is not replaced so, but by 'systemctl restart'.
docs/upgrade.md has more.`,
		Args: takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			take := takeForRun
			if replaces {
				take = replace
			}
			defer outliveReaders()()
			return logged(cmd.ErrOrStderr(), func(q *logQueue) error { return runDaemon(cmd.Context(), f, q, take) })
		}),
	}
	cmd.Flags().BoolVar(&replaces, "replace", false, "take over from the vipspeaker that runs here, if one does")
	return cmd
}

// taker gets the lock for a daemon.
type taker func(ctx context.Context, f *flags, cfg *config.Config, logger *slog.Logger) (*lock, error)

// takeForRun is the taker of a daemon that replaces none.
func takeForRun(ctx context.Context, f *flags, _ *config.Config, _ *slog.Logger) (*lock, error) {
	return takeLock(ctx, f.stateDir)
}

// runDaemon is the command run: it makes sure that it is the only one, builds
// everything and serves until it is told to stop.
func runDaemon(ctx context.Context, f *flags, stderr *logQueue, take taker) (err error) {
	cfg, err := config.Load(f.config)
	if err != nil {
		for _, line := range mistakesOf(err) {
			_, _ = fmt.Fprintln(stderr, line)
		}
		return &badEnd{}
	}
	var level slog.LevelVar
	if err = setLevel(&level, cfg.Log.Level); err != nil {
		return err
	}
	logger := newLogger(stderr, cfg.Log.Format, &level)
	stderr.tell(func(lost int) { logger.Warn("log lines lost: nobody took them in time", "count", lost) })

	if err = privilege.Raise(); err != nil {
		return err
	}
	if err = requireCapabilities(cfg, logger); err != nil {
		return err
	}
	if err = keepFromChildren(); err != nil {
		return err
	}
	socket, err := f.socketOf(cfg)
	if err != nil {
		return err
	}
	l, err := take(ctx, f, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	// From here on the next process knows that this one had no order to stop.
	if err = l.write(record{pid: os.Getpid(), socket: socket, http: httpOf(cfg)}); err != nil {
		return err
	}
	d, err := newDaemon(ctx, f, cfg, logger, &level, l)
	if err != nil {
		return err
	}
	defer d.close()
	if err = d.serve(ctx); err != nil || d.endMode() != modeDrain {
		return err
	}
	return errors.Join(forgetRouterID(f.stateDir), forgetFronts(f.stateDir))
}

// keepFromChildren takes what only the daemon itself needs out of the ambient
// set: CAP_NET_ADMIN, and CAP_NET_RAW for echo requests. So neither a check's
// program nor a speaker process gets them from a daemon that is not root
// (capabilities(7)).
func keepFromChildren() error {
	for _, c := range []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
		_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_LOWER, c, 0, 0, 0)
		// A binary with cgo, as the race detector makes it, cannot do this.
		if errno != 0 && errno != syscall.ENOTSUP {
			return fmt.Errorf("lower ambient capability %d: %w", c, errno)
		}
	}
	return nil
}
