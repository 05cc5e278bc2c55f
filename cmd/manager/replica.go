// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/members"
)

const (
	// leaseNamespace is where replicas look for each other that are in no pod: that
	// of config/default, so that one on a laptop and those in the cluster share the
	// runs.
	leaseNamespace = "chatrun-system"
	// drainGrace is long enough for most answers. config/manager leaves time for it,
	// and for the hand-over after it.
	drainGrace = 30 * time.Second
)

// replicaOptions are the flags that make this manager one of many.
type replicaOptions struct {
	worker, process string
	namespace       string
	duration        time.Duration
	drain           time.Duration
}

func (o *replicaOptions) bind(fs *flag.FlagSet) {
	fs.StringVar(&o.worker, "worker-name", "",
		"Name of this manager in status.worker and of its Lease, unique among those that live. Empty: the host's name, which is the pod's.")
	fs.StringVar(&o.process, "worker-process", "",
		"What the next process of this name has as well, and no other one: the pod's UID. It need not wait then for the Lease of the one before to lapse.")
	fs.StringVar(&o.namespace, "lease-namespace", "",
		"Namespace of the Leases by which all managers of a cluster know each other. Empty: the pod's own, or "+leaseNamespace+" outside of a pod.")
	fs.DurationVar(&o.duration, "lease-duration", members.DefaultDuration,
		"How long other managers wait for a sign of life before they take over the runs of this one, in whole seconds.")
	fs.DurationVar(&o.drain, "drain-grace", drainGrace,
		"How long attempts that are under way may go on after SIGTERM, before they are handed over. Nothing new is begun then.")
}

func (o *replicaOptions) complete() error {
	if o.worker == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("finding a name for this worker, give --worker-name: %w", err)
		}
		o.worker = host
	}
	if len(o.worker) > members.MaxRelayWorker {
		return fmt.Errorf("--worker-name must have at most %d characters", members.MaxRelayWorker)
	}
	if problems := validation.IsDNS1123Subdomain(o.worker); len(problems) > 0 {
		return fmt.Errorf("--worker-name %q: %s", o.worker, problems[0])
	}
	if o.namespace == "" {
		o.namespace = leaseNamespace
		if own := podNamespace(); own != "" {
			o.namespace = own
		}
	}
	if problems := validation.IsDNS1123Label(o.namespace); len(problems) > 0 {
		return fmt.Errorf("--lease-namespace %q: %s", o.namespace, problems[0])
	}
	if o.duration < members.MinDuration || o.duration > members.MaxDuration || o.duration%time.Second != 0 {
		return fmt.Errorf("--lease-duration must be whole seconds, from %s to %s", members.MinDuration, members.MaxDuration)
	}
	if o.drain < 0 {
		return errors.New("--drain-grace must not be negative")
	}
	return nil
}

// podNamespace returns the namespace of the pod that we are in; empty if there is
// none.
func podNamespace() string {
	own, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(own))
}

// members returns the replicas of the manager. Their requests have a connection of
// their own, and time out: one that hangs behind others must not fence us.
func (o *replicaOptions) members(cfg *rest.Config, relayAddress string, namespaces []string, sharded bool) (*members.Members, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Dial = (&net.Dialer{Timeout: o.duration / 3}).DialContext
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client for Leases: %w", err)
	}
	return members.New(members.Options{
		Client: client, Namespace: o.namespace, Name: o.worker, Process: o.process,
		RelayAddress: relayAddress, Owners: access.NewSelf(client).Owners, Namespaces: namespaces, Sharded: sharded, Duration: o.duration, Log: ctrl.Log.WithName("members"),
	})
}

// drained returns a context that ends when a shutdown was asked for and what was
// under way has ended, or the grace is over.
func (o *replicaOptions) drained(asked context.Context, wait func(context.Context)) context.Context {
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	context.AfterFunc(asked, func() {
		defer cancel()
		grace, end := context.WithTimeout(ctx, o.drain)
		defer end()
		ctrl.Log.Info("draining: nothing new is begun, and what is under way may go on", "grace", o.drain.String())
		wait(grace)
	})
	return ctx
}
