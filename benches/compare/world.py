"""What every benchmark begins with: a role, its database, and pgbench's tables in it."""

import os

from poolers import DATABASE, PASSWORD, USER

SCALE = 5


def fill(server, folder, databases=(DATABASE,)):
    """`folder` is where the server's socket is."""
    admin = server.admin()
    admin.query(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    for database in databases:
        admin.query(f"CREATE DATABASE {database} OWNER {USER}")
        command = f"{server.program('pgbench')} -q -i -I dtGvp -s {SCALE} -h {folder} -p {server.port} -U postgres {database}"
        if os.system(f"{command} >{folder}/fill.log 2>&1") != 0:
            raise RuntimeError(open(f"{folder}/fill.log").read())
        own = server.admin(database)
        own.query(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}")
        own.close()
    admin.close()
