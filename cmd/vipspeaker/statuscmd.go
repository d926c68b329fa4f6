package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"

	"github.com/spf13/cobra"
)

// watchInterval is the time between two looks at the daemon.
const watchInterval = time.Second

// clearScreen moves the cursor home and clears the screen.
const clearScreen = "\x1b[H\x1b[2J"

// statusView is one call of the command status.
type statusView struct {
	client *control.Client
	out    io.Writer
	style  status.Style
	screen bool // out is a terminal that can be cleared
	vip    string
	whole  bool // the whole picture, not that VIP
	form   output
	now    func() time.Time
	// columns is the width of the screen now, 0 if it is not known.
	columns func() int
}

func newStatusCommand(f *flags) *cobra.Command {
	var o output
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [VIP]",
		Short: "Show what is announced and what is withheld, and why",
		Long: `Show VIPs by interfaces, interfaces and peers as of the daemon's last pass.
With a VIP (its name or address) show every gate that its announcement must
pass, with its state and reason.`,
		Args: takes(0, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			v := &statusView{
				client: f.client(), out: out, style: styleOf(out, os.Getenv), screen: isTerminal(out), form: o, now: time.Now,
				columns: func() int { return columnsOf(out) },
			}
			defer v.client.Close()
			if v.whole = len(args) == 0; !v.whole {
				v.vip = args[0]
			}
			if watch {
				return v.watch(cmd.Context(), cmd.ErrOrStderr())
			}
			s, err := v.client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return v.show(s)
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeVIP(cmd.Context(), f, args)
		},
	}
	cmd.AddCommand(newSourceCommand(f))
	addOutputFlag(cmd, &o)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever it changed, until interrupted; with -o json one line each")
	return cmd
}

// completeVIP offers the names of the VIPs to the shell.
func completeVIP(ctx context.Context, f *flags, args []string) ([]string, cobra.ShellCompDirective) {
	client := f.client()
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(s.VIPs))
	for i := range s.VIPs {
		names[i] = s.VIPs[i].Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// show prints one picture.
func (v *statusView) show(s *status.Status) error {
	var shown any = s
	write := func() error { return status.WriteText(v.out, s, v.style, v.now()) }
	if !v.whole {
		e, err := s.Explain(v.vip, v.now())
		if err != nil {
			return err
		}
		shown = e
		write = func() error { return e.WriteText(v.out, v.style) }
	}
	if v.form == asJSON {
		return printJSON(v.out, shown)
	}
	return write()
}

// watch shows the picture until ctx ends: each second on a terminal, whenever a
// pass ended otherwise. A daemon that does not answer is waited for.
func (v *statusView) watch(ctx context.Context, stderr io.Writer) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var last time.Time
	failed := ""
	for {
		s, err := v.client.Status(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && err.Error() != failed:
			failed = err.Error()
			_, _ = fmt.Fprintf(stderr, "vipspeaker: %v\n", err)
		case err == nil && (v.redraws() || !s.Time.Equal(last)):
			failed, last = "", s.Time
			if err := v.showNext(s); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// redraws tells whether the picture is drawn in place.
func (v *statusView) redraws() bool { return v.screen && v.form == asTable }

// redraw puts one picture in the place of the one before, in lines that fit.
func (v *statusView) redraw(s *status.Status) error {
	var b strings.Builder
	one := *v
	one.out = &b
	one.style.Columns = v.columns() // the terminal may be another width by now
	if err := one.show(s); err != nil {
		return err
	}
	text := b.String()
	if columns := v.columns(); columns > 0 {
		text = cutLines(text, columns)
	}
	_, err := io.WriteString(v.out, clearScreen+text)
	return err
}

// showNext prints one picture of many.
func (v *statusView) showNext(s *status.Status) error {
	switch {
	case v.redraws():
		return v.redraw(s)
	case v.form == asTable:
		if err := v.show(s); err != nil {
			return err
		}
		_, err := io.WriteString(v.out, "\n")
		return err
	case v.whole:
		return status.WriteJSONLine(v.out, s)
	}
	e, err := s.Explain(v.vip, v.now())
	if err != nil {
		return err
	}
	return status.WriteJSONLine(v.out, e)
}
