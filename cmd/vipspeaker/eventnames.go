package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vipspeaker/pkg/status"
)

// resolve finds the name of the VIP whose address the filter gives. What a VIP is
// called is asked first, here and of events: see takes.
func (v *eventsView) resolve(ctx context.Context) {
	if v.vip == "" {
		return
	}
	s, err := v.client.Status(ctx)
	if err != nil {
		return // there are events before the first pass, and of VIPs that are gone
	}
	if e, err := s.Explain(v.vip, time.Now()); err == nil {
		v.alias = e.VIP.Name
	}
}

// names are those of one kind of things.
type names struct {
	// here are those that there are, gone those of which there are only events.
	here, gone []string
}

func (n *names) heard(name string) {
	if name != "" && !slices.Contains(n.here, name) && !slices.Contains(n.gone, name) {
		n.gone = append(n.gone, name)
	}
}

// missing is an error unless there is, or was, what a filter names; an empty name
// is that of all.
func (n *names) missing(what, name string) error {
	if name == "" || slices.Contains(n.here, name) || slices.Contains(n.gone, name) {
		return nil
	}
	known := "there is none"
	if len(n.here) > 0 {
		known = "the " + what + "s are " + status.Names(n.here)
	}
	if len(n.gone) > 0 {
		known += ", and events tell of " + status.Names(n.gone)
	}
	return fmt.Errorf("no %s %q: %s", what, name, known)
}

// unknown returns an error that says what there is if a filter names something that
// the daemon does not have and that no event which it keeps is about.
func (v *eventsView) unknown(ctx context.Context) error {
	if v.vip == "" && v.iface == "" || v.alias != "" && v.iface == "" {
		return nil
	}
	vips, interfaces := &names{}, &names{}
	if s, err := v.client.Status(ctx); err == nil {
		for i := range s.VIPs {
			vips.here = append(vips.here, s.VIPs[i].Name)
		}
		for i := range s.Interfaces {
			interfaces.here = append(interfaces.here, s.Interfaces[i].Name)
		}
		if s.TopLevel != nil {
			interfaces.here = append(interfaces.here, status.TopLevel)
		}
	}
	if v.alias != "" {
		vips.here = append(vips.here, v.vip)
	}
	err := v.client.Events(ctx, 0, false, func(e status.Event) error {
		vips.heard(e.VIP)
		interfaces.heard(e.Interface)
		switch {
		case e.Kind == "vip" && e.Subject != allVIPs:
			vips.heard(e.Subject)
		case e.Kind == "interface":
			interfaces.heard(e.Subject)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(vips.missing("VIP", v.vip), interfaces.missing("interface", v.iface))
}
