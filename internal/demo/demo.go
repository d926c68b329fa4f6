// Package demo shows the daemon's main job without a router: it builds a host,
// a router and a client in network namespaces, runs the real daemon on the
// host, lets interfaces fail while traffic flows, and checks each claim that it
// prints.
//
// Run is called by the command "demo" and starts the same program again in
// namespaces of its own, as the hidden command that calls Stage. All processes
// of the demo live in one PID namespace whose first process is the stage, so
// none outlives it; the stage dies with the command.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
)

// StageCommand is the name of the hidden command that must call Stage.
const StageCommand = "demo-stage"

// Options are what the commands hand over.
type Options struct {
	// In is where Enter is read from with Pause, Out where the story goes.
	In  io.Reader
	Out io.Writer
	// Pause waits for Enter between the parts.
	Pause bool
}

// Run shows the demo and returns an error if anything was not as claimed. It
// needs root, or a kernel that lets users make user namespaces. Whatever ends
// it, SIGKILL included, nothing of the demo remains.
func Run(ctx context.Context, o Options, stderr io.Writer) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	// The stage is killed when the thread that started it ends (PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, executable, StageCommand, "--pause="+strconv.FormatBool(o.Pause)) //nolint:gosec // this program itself
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.In, o.Out, stderr
	cmd.SysProcAttr = isolation(os.Geteuid(), os.Getegid())
	if err = cmd.Start(); err != nil {
		return fmt.Errorf("make namespaces (this needs root, or user namespaces open to all users): %w", err)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted; nothing of the demo remains")
	}
	if err != nil {
		return fmt.Errorf("the demo did not end well: %w", err)
	}
	return nil
}

// isolation puts the stage into namespaces of its own; who is not root becomes
// root in a user namespace.
func isolation(uid, gid int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

// ErrNotWritten is the error of a stage whose output nobody got.
var ErrNotWritten = errors.New("write the output")

// Stage is the demo itself, inside its namespaces.
func Stage(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if os.Getpid() != 1 {
		return fmt.Errorf("%s runs in the namespaces of the command demo only", StageCommand)
	}
	if err = privateRun(); err != nil {
		return err
	}
	// Ctrl-C at a terminal reaches all processes of the demo. The command takes
	// it and ends the stage, which itself goes on until then.
	// That nobody reads any more is an error of the output.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	p := &play{screen: newScreen(o.Out, o.In, o.Pause), executable: executable}
	p.screen.end = cancel
	err = p.run(ctx)
	if p.screen.failed != nil {
		return fmt.Errorf("%w: %w", ErrNotWritten, p.screen.failed)
	}
	if err != nil {
		p.screen.event("FAILED: %v", err)
		if p.daemon != nil {
			if gone := p.daemon.running(); gone != nil {
				p.screen.event("%v", gone)
			}
			p.screen.block("The daemon's last lines:\n" + p.daemon.log.String())
		}
		p.screen.block("The router's last lines:\n" + p.routerLog.String())
	}
	return err
}

// privateRun covers /run with an empty file system that only the demo sees: the
// daemon's socket and state file are never those of a real daemon.
func privateRun() error {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private (where users may not, root may): %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("cover /run: %w", err)
	}
	return nil
}
