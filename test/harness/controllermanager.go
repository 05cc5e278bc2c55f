// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// controllers are those of kube-controller-manager that suites look at: who
// deletes what a deleted object owns, empties a namespace, counts for quotas, and
// puts roles together.
const controllers = "garbage-collector-controller,namespace-controller,resourcequota-controller,clusterrole-aggregation-controller"

// StartControllerManager runs kube-controller-manager against the control plane,
// from the binary that TEST_ASSET_KUBE_CONTROLLER_MANAGER names. What it returns
// ends it. It works once a suite sees what it does: there is nothing to wait for
// before.
func (c *ControlPlane) StartControllerManager(ctx context.Context) (stop func() error, err error) {
	binary := os.Getenv("TEST_ASSET_KUBE_CONTROLLER_MANAGER")
	if binary == "" {
		return nil, errors.New("TEST_ASSET_KUBE_CONTROLLER_MANAGER is not set: run the suites with `make test`, or set it to what `go run ./hack/assets controller-manager` prints")
	}
	user, err := c.env.AddUser(envtest.User{Name: "controller-manager", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("adding a user: %w", err)
	}
	raw, err := user.KubeConfig()
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(c.dir, "controller-manager.kubeconfig")
	if err := os.WriteFile(kubeconfig, raw, 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(c.dir, "controller-manager.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	// It outlives the context that it is started with: a suite ends it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), binary,
		"--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig,
		"--controllers", controllers, "--leader-elect=false", "--secure-port", "0",
		// What a quota counts is counted again so often, beside at every change.
		"--resource-quota-sync-period", "5s")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting kube-controller-manager: %w", err)
	}
	return func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
		return err
	}, nil
}
