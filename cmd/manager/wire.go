// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

const (
	// leaseName is the leader's Lease.
	leaseName = "chatrun-operator.chatrun.dev"
	// streamHeaderTimeout and streamHeaderBytes bound what a reader may send
	// before it is answered.
	streamHeaderTimeout = 10 * time.Second
	streamHeaderBytes   = 32 << 10
	// streamIdle ends connections between two requests.
	streamIdle = 2 * time.Minute
	// streamGrace is for readers to read what is written already, at shutdown.
	streamGrace = 2 * time.Second
)

// manager makes the manager.
func (o *options) manager(cfg *rest.Config) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                  scheme,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaseName,
		LeaderElectionNamespace: o.leaderElectNS,
		// The process ends right after the manager, so the next leader need not
		// wait for the Lease to lapse.
		LeaderElectionReleaseOnCancel: true,
		HealthProbeBindAddress:        o.healthAddress,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		// Nobody here reads managedFields, and they are half of a small object.
		Cache: cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// wire adds all that the manager runs.
func (o *options) wire(ctx context.Context, mgr ctrl.Manager) error {
	caller, err := provider.New(provider.Options{
		EgressProxy: o.egressProxy, NoProxy: o.noProxy, DenyCIDRs: list(o.denyCIDRs),
		UserAgent: "chatrun-operator", HeaderTimeout: o.headerTimeout,
	})
	if err != nil {
		return fmt.Errorf("setting up the provider client: %w", err)
	}
	hub := streamer.NewHub()
	if err := controller.Setup(ctx, mgr, controller.Options{Caller: caller, Hub: hub, Worker: o.worker}); err != nil {
		return err
	}
	if o.streamAddress != off {
		source, err := controller.NewSource(ctx, mgr)
		if err != nil {
			return err
		}
		if err := mgr.Add(&streamServer{address: o.streamAddress, handler: streamer.NewHandler(hub, source, streamer.Anyone)}); err != nil {
			return err
		}
	}
	return errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("cache", func(req *http.Request) error {
			wait, cancel := context.WithTimeout(req.Context(), time.Second)
			defer cancel()
			if !mgr.GetCache().WaitForCacheSync(wait) {
				return errors.New("the cache has not caught up with the API server yet")
			}
			return nil
		}),
	)
}

// streamServer serves the stream endpoint. Every replica does, leader or not.
type streamServer struct {
	address string
	handler http.Handler
}

// Start implements manager.Runnable.
func (s *streamServer) Start(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.address)
	if err != nil {
		return fmt.Errorf("opening the stream endpoint: %w", err)
	}
	readers, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: streamHeaderTimeout,
		MaxHeaderBytes:    streamHeaderBytes,
		IdleTimeout:       streamIdle,
		// The handler ends its streams when this context does.
		BaseContext: func(net.Listener) context.Context { return readers },
	}
	ctrl.Log.WithName("stream").Info("serving", "address", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the stream endpoint: %w", err)
	case <-ctx.Done():
	}
	end()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), streamGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return server.Close()
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*streamServer) NeedLeaderElection() bool { return false }
