package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"

	"vipspeaker/pkg/status"
	"vipspeaker/pkg/trace"
	"vipspeaker/pkg/vip"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// socket are the flags that say which socket a look-up is for.
type socket struct {
	user, mark, iface string

	flags *pflag.FlagSet // that these are in
}

func (s *socket) addFlags(cmd *cobra.Command) {
	s.flags = cmd.Flags()
	cmd.Flags().StringVar(&s.user, "user", "", "name or ID of the `user` who owns the socket (default: who calls)")
	cmd.Flags().StringVar(&s.mark, "mark", "0", "`mark` of the socket, such as 0x10")
	cmd.Flags().StringVar(&s.iface, "interface", "", "`interface` that the socket is bound to")
}

// given are the flags on the command line.
func (s *socket) given() []string {
	var list []string
	for _, name := range []string{"user", "mark", "interface"} {
		if s.flags.Changed(name) {
			list = append(list, "--"+name)
		}
	}
	return list
}

// flow makes the flow to a destination.
func (s *socket) flow(to string) (vip.Flow, error) {
	a, err := trace.Destination(to)
	if err != nil {
		return vip.Flow{}, err
	}
	f := vip.Flow{To: a, Interface: s.iface, User: uint32(os.Getuid())} //nolint:gosec // an ID of Linux has 32 bits
	if s.flags.Changed("interface") {
		if _, err = net.InterfaceByName(s.iface); err != nil {
			return f, fmt.Errorf("--interface: %q is no interface of this host", s.iface)
		}
	} else {
		f.Interface = a.Zone()
	}
	if f.Mark, err = trace.Mark(s.mark); err != nil {
		return f, fmt.Errorf("--mark: %w", err)
	}
	if !s.flags.Changed("user") {
		return f, nil
	}
	id := s.user
	if found, unknown := user.Lookup(s.user); unknown == nil {
		id = found.Uid
	}
	number, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return f, fmt.Errorf("--user: %q is neither a user of this host (in /etc/passwd) nor a user ID", s.user)
	}
	f.User = uint32(number)
	return f, nil
}

func newSourceCommand(f *flags) *cobra.Command {
	var o output
	var s socket
	cmd := &cobra.Command{
		Use:   "source DEST",
		Short: "Show which source a connection to an address gets, and why",
		Long: `Ask the kernel which source a connection to the address DEST gets that binds
none, and say why: by which rule, table and route, of which VIP; or why it has
the address of an interface.`,
		Args: takes(1, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			flow, err := s.flow(args[0])
			if err != nil {
				return err
			}
			return traced(cmd, f, o, func(ctx context.Context, k trace.Kernel, s *status.Status) (*status.Trace, error) {
				return trace.Out(ctx, k, s, flow)
			})
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addOutputFlag(cmd, &o)
	s.addFlags(cmd)
	return cmd
}

func newTraceCommand(f *flags) *cobra.Command {
	var o output
	var s socket
	cmd := &cobra.Command{
		Use:   "trace FROM|to DEST",
		Short: "Show how a packet leaves the host, or how it should come in",
		Long: `Show by which rule, table, route, interface, neighbour and session a packet
goes.

  vipspeaker trace FROM DEST   from a VIP (name or address) or another address
                               of this host to the address DEST
  vipspeaker trace to VIP      by which interfaces and sessions packets to a VIP
                               (name or address) should come in, and whether the
                               kernel takes them
  vipspeaker trace to DEST     from a socket that binds no address: as
                               'vipspeaker status source DEST'

It asks the kernel and the daemon, and changes nothing.`,
		Args: takes(2, 2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			return traced(cmd, f, o, func(ctx context.Context, k trace.Kernel, st *status.Status) (*status.Trace, error) {
				return traceArgs(ctx, k, st, &s, args[0], args[1])
			})
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 && args[0] != "to" {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, directive := completeVIP(cmd.Context(), f, nil)
			if len(args) == 0 {
				names = append(names, "to")
			}
			return names, directive
		},
	}
	addOutputFlag(cmd, &o)
	s.addFlags(cmd)
	return cmd
}

// traceArgs traces what the arguments of the command say.
func traceArgs(ctx context.Context, k trace.Kernel, st *status.Status, s *socket, from, dest string) (*status.Trace, error) {
	if from == "to" {
		if v := trace.FindVIP(st, dest); v != nil {
			if given := s.given(); len(given) > 0 {
				return nil, fmt.Errorf("%s: only for packets that leave this host, not for those to %s", strings.Join(given, ", "), v.Name)
			}
			to := v.Prefix.Addr()
			if a, err := netip.ParseAddr(dest); err == nil {
				to = a
			}
			return trace.In(ctx, k, st, v, to)
		}
	}
	flow, err := s.flow(dest)
	if _, bad := netip.ParseAddr(dest); bad != nil && from == "to" {
		return nil, fmt.Errorf("%q is neither a VIP nor an IP address", dest)
	}
	if err != nil {
		return nil, err
	}
	if from == "to" {
		return trace.Out(ctx, k, st, flow)
	}
	source, err := netip.ParseAddr(from)
	if v := trace.FindVIP(st, from); v != nil && err != nil {
		if !v.Prefix.IsSingleIP() {
			return nil, fmt.Errorf("%s is the whole prefix %s; give one address of it", v.Name, v.Prefix)
		}
		source, err = v.Prefix.Addr(), nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is neither a VIP nor an address of this host nor the word to", from)
	case source.Is4() != flow.To.Is4():
		return nil, fmt.Errorf("%s and %s are not of one address family", source, flow.To)
	}
	flow.From = source
	return trace.Out(ctx, k, st, flow)
}

// traced makes a trace and prints it. A destination that is not reached is a bad
// end, after it is shown.
func traced(cmd *cobra.Command, f *flags, o output, do func(context.Context, trace.Kernel, *status.Status) (*status.Trace, error)) error {
	client := f.client()
	defer client.Close()
	s, err := client.Status(cmd.Context())
	if err != nil {
		return err
	}
	k, err := vip.NewReader()
	if err != nil {
		return err
	}
	defer k.Close()
	t, err := do(cmd.Context(), k, s)
	if err != nil {
		return err
	}
	if err := show(cmd.OutOrStdout(), t, o); err != nil {
		return err
	}
	if t.Reason == status.SourceUnreachable {
		return &badEnd{}
	}
	return nil
}

func show(w io.Writer, t *status.Trace, o output) error {
	if o == asJSON {
		return printJSON(w, t)
	}
	if err := t.WriteText(w, styleOf(w, os.Getenv)); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
