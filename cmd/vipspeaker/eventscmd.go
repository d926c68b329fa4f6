package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"vipspeaker/pkg/control"
	"vipspeaker/pkg/status"

	"github.com/spf13/cobra"
)

// eventsView is one call of the command events.
type eventsView struct {
	client      *control.Client
	out, stderr io.Writer
	form        output
	table       *status.EventWriter
	iface, vip  string // empty for all
	// alias is the name of the VIP whose address vip is, empty if it is none.
	alias string
	// last is the number of the last event, counted whether or not it was shown.
	// Gaps after it are reported if known is set.
	last  uint64
	known bool
}

func newEventsCommand(f *flags) *cobra.Command {
	v := &eventsView{}
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what became worse or well again, when and why",
		Long: `Show the last events of the daemon, the oldest first, one line each: every
change of a VIP, a check, an interface, a probe, a peer, a BFD session and the
like, with its time and cause. The daemon keeps the last 1,000 in memory. Each
has a number, seq in -o json, that --since takes.

What is gone is known by its events for as long as they are kept. A VIP or an
interface that is not known at all is an error, with --follow a hint.

With --follow it goes on until interrupted; when the daemon stops it says so and
ends with exit code 1.`,
		Args: takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			v.client, v.out, v.stderr = f.client(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			defer v.client.Close()
			v.table = status.NewEventWriter(v.out, styleOf(v.out, os.Getenv))
			v.known = cmd.Flags().Changed("since")
			for _, name := range []string{"vip", "interface"} {
				if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
					return fmt.Errorf("--%s: %q: must be a name", name, "") // and not all events
				}
			}
			return v.show(cmd.Context(), follow)
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addOutputFlag(cmd, &v.form)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the events to come")
	cmd.Flags().Uint64Var(&v.last, "since", 0, "only events after the one with this `number`")
	cmd.Flags().StringVar(&v.vip, "vip", "", "only events of the VIP with this `name` or address")
	cmd.Flags().StringVar(&v.iface, "interface", "", "only events on the interface with this `name`")
	completeNames(cmd, f, "vip", func(s *status.Status) (names []string) {
		for i := range s.VIPs {
			names = append(names, s.VIPs[i].Name)
		}
		return names
	})
	completeNames(cmd, f, "interface", func(s *status.Status) (names []string) {
		for i := range s.Interfaces {
			names = append(names, s.Interfaces[i].Name)
		}
		return names
	})
	err := cmd.RegisterFlagCompletionFunc("since", cobra.NoFileCompletions)
	if err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}

// completeNames offers names out of the daemon's picture for a flag.
func completeNames(cmd *cobra.Command, f *flags, flag string, names func(*status.Status) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		client := f.client()
		defer client.Close()
		s, err := client.Status(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(s), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag was added before
	}
}

// show prints the events that there are, together, so that they are aligned, and
// then, to follow, one after the other. The end of ctx is a good end.
func (v *eventsView) show(ctx context.Context, follow bool) error {
	var list []status.Event
	v.resolve(ctx)
	err := v.client.Events(ctx, v.last, false, func(e status.Event) error {
		if v.takes(e) {
			list = append(list, e)
		}
		return nil
	})
	if err == nil {
		err = v.print(list)
	}
	if err == nil && len(list) == 0 {
		if err = v.unknown(ctx); err != nil && follow && ctx.Err() == nil {
			_, _ = fmt.Fprintf(v.stderr, "vipspeaker: %v; waiting for one\n", err)
			err = nil
		}
	}
	if err == nil && follow {
		v.known = true
		err = v.client.Events(ctx, v.last, true, func(e status.Event) error {
			if !v.takes(e) {
				return nil
			}
			return v.print([]status.Event{e})
		})
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that is what it was waiting for
	}
	return err
}

// takes tells whether the event is to be shown, and says how many there were
// between it and the last one.
func (v *eventsView) takes(e status.Event) bool {
	if v.known && e.Seq > v.last+1 {
		_, _ = fmt.Fprintf(v.stderr, "vipspeaker: %d events before number %d are lost: the daemon keeps the last %d\n",
			e.Seq-v.last-1, e.Seq, status.KeptEvents)
	}
	v.last, v.known = e.Seq, true
	return e.About(v.iface, v.vip) || v.alias != "" && e.About(v.iface, v.alias)
}

func (v *eventsView) print(list []status.Event) error {
	if v.form == asTable {
		return v.table.Write(list)
	}
	for i := range list {
		if err := status.WriteJSONLine(v.out, &list[i]); err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
	}
	return nil
}
