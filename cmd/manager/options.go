// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// off is the address of a server that is not wanted.
const off = "0"

// pprofFlag names the address of the profiles.
const pprofFlag = "pprof-bind-address"

// options are the flags.
type options struct {
	kubeconfig    string
	healthAddress string
	metrics       metricsOptions
	pprofAddress  string
	stream        streamOptions
	replica       replicaOptions
	relay         relayOptions
	egressProxy   string
	noProxy       string
	denyCIDRs     string
	headerTimeout time.Duration
	maxStreams    int
	shardRuns     bool
	namespaces    []string
	traces        tracesOptions
	zap           zap.Options
}

// defaultMaxStreams is a quarter of a GiB for the streams themselves: some 50 KB
// each, and more as their texts grow.
const defaultMaxStreams = 5000

// parse reads the flags. It returns nil and no error if only help was asked.
func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("manager", flag.ContinueOnError)
	fs.StringVar(&o.kubeconfig, "kubeconfig", "",
		"Path to a kubeconfig. Empty: $KUBECONFIG, then the ServiceAccount of the pod, then ~/.kube/config.")
	fs.StringVar(&o.healthAddress, "health-probe-bind-address", "127.0.0.1:8081", "Address of /healthz and /readyz; 0 is off.")
	o.metrics.bind(fs)
	fs.StringVar(&o.pprofAddress, pprofFlag, off,
		"Address of /debug/pprof, on loopback alone, for whoever may look into this process: it asks nobody who they are.")
	o.stream.bind(fs)
	o.replica.bind(fs)
	o.relay.bind(fs)
	fs.StringVar(&o.egressProxy, "egress-proxy", "",
		"URL of an HTTP proxy for all calls to providers. Nothing is read from the environment.")
	fs.StringVar(&o.noProxy, "no-proxy", "",
		"Hosts, domains and CIDRs, separated by commas, that are reached without the proxy.")
	fs.StringVar(&o.denyCIDRs, "deny-provider-cidrs", "",
		"CIDRs, separated by commas, that no provider may have its address in. Link-local addresses never may.")
	fs.IntVar(&o.maxStreams, "max-concurrent-streams", defaultMaxStreams,
		"Most attempts that this manager has under way at the same time, over all providers; 0 is no bound. Further runs are Queued.")
	fs.BoolVar(&o.shardRuns, "shard-runs", false,
		"Hold this replica's share of the runs in memory, instead of all. The API server's feature gate ShardedListAndWatch saves the traffic as well.")
	fs.Func("watch-namespaces",
		"Namespaces, separated by commas, whose ChatRuns and ChatProviders are this manager's concern; Roles in them are then enough. Empty: all.",
		func(s string) error { o.namespaces = list(s); return nil })
	fs.DurationVar(&o.headerTimeout, "provider-header-timeout", 0,
		"Longest wait for the header of a provider's answer; 0 leaves it to each run's streamIdleTimeoutSeconds.")
	o.traces.bind(fs)
	o.zap.BindFlags(fs)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: the manager takes flags alone", fs.Arg(0))
	}
	given := false
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == addressFlag })
	return o, o.complete(given)
}

// complete checks what flag parsing cannot, and fills in what was left out.
// givenStream says whether the stream endpoint's address was given.
func (o *options) complete(givenStream bool) error {
	for name, address := range map[string]*string{
		addressFlag: &o.stream.address, relayFlag: &o.relay.address, "health-probe-bind-address": &o.healthAddress, metricsFlag: &o.metrics.address,
		pprofFlag: &o.pprofAddress,
	} {
		if *address == "" || *address == off {
			// For an empty one the metrics server would open a port to everybody.
			*address = off
			continue
		}
		if _, _, err := net.SplitHostPort(*address); err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
	}
	// Whoever reads a heap finds keys in it.
	if host, _, _ := net.SplitHostPort(o.pprofAddress); o.pprofAddress != off && !isLoopback(host) {
		return fmt.Errorf("--%s shows the memory of this process, so it must be on loopback, such as 127.0.0.1:6060, and not %q", pprofFlag, o.pprofAddress)
	}
	if err := o.stream.complete(givenStream); err != nil {
		return err
	}
	if o.maxStreams < 0 {
		return errors.New("--max-concurrent-streams must not be negative")
	}
	if o.headerTimeout < 0 {
		return errors.New("--provider-header-timeout must not be negative")
	}
	if err := o.completeNamespaces(); err != nil {
		return err
	}
	return errors.Join(o.metrics.complete(), o.traces.complete(), o.replica.complete(), o.relay.complete(o.stream.address))
}

// completeNamespaces checks which namespaces are to be watched.
func (o *options) completeNamespaces() error {
	for _, namespace := range o.namespaces {
		if problems := validation.IsDNS1123Label(namespace); len(problems) > 0 {
			return fmt.Errorf("--watch-namespaces %q: %s", namespace, problems[0])
		}
	}
	slices.Sort(o.namespaces)
	o.namespaces = slices.Compact(o.namespaces)
	if len(o.namespaces) > 0 && o.shardRuns {
		return errors.New("--watch-namespaces and --shard-runs exclude each other: what is divided by the second are the runs of all namespaces")
	}
	return nil
}

func (o *options) logger() logr.Logger { return zap.New(zap.UseFlagOptions(&o.zap)) }

// restConfig finds the API server. client-go's own throttle is off: API
// priority and fairness is the throttle.
func (o *options) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	var cfg *rest.Config
	var err error
	if o.kubeconfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		cfg, err = rest.InClusterConfig()
	}
	if cfg == nil {
		cfg, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	}
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, -1
	cfg.UserAgent = "chatrun-operator"
	return cfg, nil
}

// list splits a flag's value at commas; empty items are dropped.
func list(s string) []string {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
