package main

import (
	"context"
	"slices"
	"time"

	"vipspeaker/internal/privilege"
	"vipspeaker/pkg/config"
	"vipspeaker/pkg/doctor"
	"vipspeaker/pkg/status"

	"github.com/spf13/cobra"
)

// doctorTime bounds the whole command, doctorAsk the question to the daemon.
const (
	doctorTime = time.Minute
	doctorAsk  = 2 * time.Second
)

func newDoctorCommand(f *flags) *cobra.Command {
	var o output
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor [CONDITION...]",
		Short: "Find what of the host breaks the promise; --fix cures some",
		Long: `Look for conditions of the host and its network that break what the daemon
promises, and tell for each what was found, why it breaks, and the command
that cures it. With names of conditions look for those only; docs/doctor.md
lists all.

The daemon may run or not. What needs a privilege or a program that is not
here is said to be not seen. Without --fix nothing is changed.

--fix does what is safe and looks again. What reaches into a firewall or into
routes of others it does only for conditions that are named, and it prints what
takes it back. Settings of interfaces are left alone unless host.sysctls is set.

Exit codes: 0 nothing bad (notes do not count), 1 findings, or a cure that
failed, 2 wrong usage.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := doctor.Known(args); err != nil {
				return err
			}
			return does(func(cmd *cobra.Command, args []string) error { return examine(cmd, f, o, fix, args) })(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, c := range doctor.Conditions() {
				names = append(names, c.Name+"\t"+c.Title)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	addOutputFlag(cmd, &o)
	cmd.Flags().BoolVar(&fix, "fix", false, "cure what can be cured safely, and what is named")
	return cmd
}

func examine(cmd *cobra.Command, f *flags, o output, fix bool, names []string) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), doctorTime)
	defer cancel()
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	if err = privilege.Raise(); err != nil {
		return err
	}
	in := doctorInput(cfg)
	for _, n := range hostNotes(cfg) {
		in.Unfit = append(in.Unfit, n.Path+": "+n.Value+": "+n.Problem)
	}
	f.askDaemon(ctx, cfg, in)
	look := doctor.Examine
	if fix {
		look = doctor.Fix
	}
	report, err := look(ctx, in, names...)
	if err != nil {
		return err
	}
	if o == asJSON {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = report.WriteText(cmd.OutOrStdout())
	}
	if err == nil && !report.Good() {
		err = &badEnd{} // it is printed
	}
	return err
}

// askDaemon adds what the daemon tells, if one runs.
func (f *flags) askDaemon(ctx context.Context, cfg *config.Config, in *doctor.Input) {
	pid, running := daemonHere(ctx)
	if !running {
		return
	}
	in.Daemon = &doctor.Daemon{PID: pid}
	client := f.client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, doctorAsk)
	defer cancel()
	if s, err := client.Status(ctx); err == nil {
		addStatus(in, cfg, s)
	}
}

// addStatus adds what the daemon's picture tells.
func addStatus(in *doctor.Input, cfg *config.Config, s *status.Status) {
	in.Daemon.Started, in.Daemon.Problems = s.StartedAt, s.Kernel.Problems
	for i := range s.Interfaces {
		in.Daemon.Speakers = append(in.Daemon.Speakers, s.Interfaces[i].Speaker.PID)
	}
	if s.TopLevel != nil {
		in.Daemon.Speakers = append(in.Daemon.Speakers, s.TopLevel.PID)
	}
	for i := range in.VIPs {
		in.VIPs[i].Away = away(&cfg.VIPs[i], s)
	}
	for i := range in.Interfaces {
		n := &in.Interfaces[i]
		addFound(n, &cfg.Interfaces[i], s)
		for j := range n.Peers {
			addSession(&n.Peers[j], s, n.Name)
		}
	}
	for i := range in.Peers {
		addSession(&in.Peers[i], s, status.TopLevel)
	}
}

// away tells whether the daemon does not bind a VIP on purpose.
func away(c *config.VIP, s *status.Status) bool {
	i := slices.IndexFunc(s.VIPs, func(v status.VIP) bool { return v.Prefix == c.Prefix })
	if i < 0 || s.VIPs[i].Bound {
		return false
	}
	v := &s.VIPs[i]
	return c.Drain.Unbind && v.Drain != nil && v.Drain.Phase == status.DrainDone || v.Role != nil && v.Role.Leased && !v.Role.Held
}

// addFound replaces the peers of an interface that are found by themselves with
// those that were.
func addFound(n *doctor.Interface, c *config.Interface, s *status.Status) {
	for j := range c.Peers {
		if c.Peers[j].Address.IsValid() {
			continue
		}
		template := n.Peers[j]
		for k := range s.Peers {
			if p := &s.Peers[k]; p.Interface == n.Name && p.Found != "" && p.Address.IsValid() {
				template.Address = p.Address.WithZone("")
				n.Peers = append(n.Peers, template)
			}
		}
	}
}

// addSession adds what became of the session with a peer.
func addSession(peer *doctor.Peer, s *status.Status, where string) {
	i := slices.IndexFunc(s.Peers, func(p status.Peer) bool {
		return p.Interface == where && p.Address.IsValid() && p.Address.WithZone("") == peer.Address && p.Negotiated != nil
	})
	if i < 0 {
		return
	}
	p := &s.Peers[i]
	peer.Has = &doctor.Capabilities{
		IPv4: slices.Contains(p.Negotiated.Families, "ipv4"), IPv6: slices.Contains(p.Negotiated.Families, "ipv6"),
		AddPath: p.Negotiated.AddPath, ExtendedNextHop: p.Negotiated.ExtendedNextHop,
		GracefulRestart: p.Negotiated.GracefulRestart, LongLived: p.Negotiated.LongLived,
	}
	if p.BFD != nil {
		peer.BFDState = p.BFD.State
	}
}
