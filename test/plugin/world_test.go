// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	// patience is for what should take a moment, on a machine that is busy.
	patience = time.Minute
	// home is the manager's namespace, service where its streams are.
	home, service = "chatrun-system", "chatrun-stream"
)

var update = flag.Bool("update", false, "write the recorded session of docs/")

// world is what all tests share.
type world struct {
	plane   *harness.ControlPlane
	manager *harness.Process
	fake    *chattest.Server
	scripts sync.Map // of chattest.Script, by prompt
	// link is what the API server takes for the manager.
	link *link
	node *node
	// address is the manager's own, ca the file with the authority of its certificate.
	address, ca string
	// bin holds the plugin and a link to it for completions.
	bin string
}

var the = &world{}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	dir, err := os.MkdirTemp("", "chatrun-plugin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := 1
	if err = the.start(context.Background(), dir); err == nil {
		code = m.Run()
	}
	if raw, failure := os.ReadFile(filepath.Join(dir, "manager.log")); failure == nil && code != 0 {
		fmt.Fprintf(os.Stderr, "the manager's log:\n%s", raw)
	}
	if err = errors.Join(err, the.stop(), os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		return 1
	}
	return code
}

func (w *world) start(ctx context.Context, dir string) error {
	proxy, err := harness.NewFrontProxy(dir)
	if err != nil {
		return err
	}
	if w.plane, err = harness.StartControlPlane(ctx, proxy.Flags()...); err != nil {
		return err
	}
	w.fake = chattest.New(w.answer, chattest.Titles(chattest.Always(chattest.Answer("Light And Air"))))
	return errors.Join(
		w.fake.Listen("127.0.0.1:0"),
		w.plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: home}}),
		w.build(ctx, filepath.Join(dir, "bin")), w.roles(ctx), w.startManager(ctx, dir), w.startNode(ctx))
}

func (w *world) stop() error {
	var err error
	if w.manager != nil {
		err = w.manager.Kill()
	}
	if w.link != nil {
		err = errors.Join(err, w.link.listener.Close())
	}
	if w.node != nil {
		w.node.server.Close()
	}
	if w.plane != nil {
		err = errors.Join(err, w.plane.Stop())
	}
	if w.fake != nil {
		w.fake.Close()
	}
	return err
}

// build builds the plugin, as it is released.
func (w *world) build(ctx context.Context, dir string) error {
	w.bin = dir
	binary := filepath.Join(dir, "kubectl-chatrun")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags=-X main.version=v0.0.0-test", "-o", binary, ".")
	build.Dir = filepath.Join(harness.Root(), "cmd", "kubectl-chatrun")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return os.Symlink(binary, filepath.Join(dir, "kubectl_complete-chatrun"))
}

// roles makes those of config/rbac/users, and one for port-forwards.
func (w *world) roles(ctx context.Context) error {
	for _, role := range []string{"chatrun_viewer", "chatrun_stream_reader", "chatrun_editor"} {
		object := &rbacv1.ClusterRole{}
		raw, err := os.ReadFile(filepath.Join(harness.Root(), "config", "rbac", "users", role+".yaml"))
		if err == nil {
			err = yaml.UnmarshalStrict(raw, object)
		}
		if err == nil {
			err = w.plane.Client.Create(ctx, object)
		}
		if err != nil {
			return err
		}
	}
	return w.plane.Client.Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "forwarder"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{""}, Resources: []string{"pods/portforward"}, Verbs: []string{"get", "create"}},
		},
	})
}

// startManager starts the manager with the front door open, by way of a link that can
// be cut.
func (w *world) startManager(ctx context.Context, dir string) error {
	authority, err := harness.NewAuthority("serving")
	if err != nil {
		return err
	}
	pair, err := authority.Issue(service, service+"."+home+".svc", "localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	w.ca = filepath.Join(dir, "serving.crt")
	if w.address, err = harness.FreeAddress(); err != nil {
		return err
	}
	if w.link, err = newLink(w.address); err != nil {
		return err
	}
	binary, err := harness.BuildManager(ctx, dir)
	if err != nil {
		return err
	}
	certificate := filepath.Join(dir, "certificate")
	err = errors.Join(os.Mkdir(certificate, 0o700), pair.Write(certificate), os.WriteFile(w.ca, authority.PEM, 0o600),
		w.plane.AllowReplicas(ctx, home), w.openFrontDoor(ctx, authority.PEM))
	if err != nil {
		return err
	}
	w.manager, err = harness.StartProcess(binary, w.plane.ManagerKubeconfig, home, "manager", filepath.Join(dir, "manager.log"),
		"--stream-local=false", "--stream-front-door", "--stream-bind-address="+w.address, "--stream-cert-dir="+certificate,
		"--stream-ticket-secret="+home+"/chatrun-stream-tickets")
	if err != nil {
		return err
	}
	return w.untilOpen(ctx)
}

// openFrontDoor makes what config/front-door has: the Service leads to loopback, as
// there is no DNS.
func (w *world) openFrontDoor(ctx context.Context, authority []byte) error {
	_, port, err := net.SplitHostPort(w.link.listener.Addr().String())
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	door := &unstructured.Unstructured{}
	raw, err := os.ReadFile(filepath.Join(harness.Root(), "config", "front-door", "apiservice.yaml"))
	if err == nil {
		err = yaml.Unmarshal(raw, &door.Object)
	}
	if err != nil {
		return err
	}
	spec, _, err := unstructured.NestedMap(door.Object, "spec")
	if err != nil {
		return err
	}
	spec["caBundle"] = encode(authority)
	spec["service"] = map[string]any{"namespace": home, "name": service, "port": int64(number)}
	door.Object["spec"] = spec
	return errors.Join(w.plane.Client.Create(ctx, door),
		w.plane.Client.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: service},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeExternalName, ExternalName: "localhost", Ports: []corev1.ServicePort{{Port: int32(number)}},
			},
		}),
		w.plane.Client.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "manager-authentication-reader"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "extension-apiserver-authentication-reader"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: harness.ManagerUser}},
		}))
}

// untilOpen waits until the API server knows that the door is open.
func (w *world) untilOpen(ctx context.Context) error {
	door := &unstructured.Unstructured{}
	door.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 2*patience, true, func(ctx context.Context) (bool, error) {
		if err := w.plane.Client.Get(ctx, client.ObjectKey{Name: "v1alpha1.stream.chatrun.dev"}, door); err != nil {
			return false, err
		}
		conditions, _, err := unstructured.NestedSlice(door.Object, "status", "conditions")
		for _, c := range conditions {
			if c, is := c.(map[string]any); is && c["type"] == "Available" && c["status"] == "True" {
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("the front door does not open: %w: %v", err, door.Object["status"])
	}
	return nil
}

// answer answers each question as its test says.
func (w *world) answer(r chattest.Request) chattest.Response {
	script, ok := w.scripts.Load(r.LastUser)
	if !ok {
		return chattest.OpenAIErrorResponse(http.StatusBadRequest, "invalid_request_error", "", "no script")
	}
	return script.(chattest.Script)(r)
}
