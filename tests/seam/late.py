from tests.seam import roles

roles.late()
